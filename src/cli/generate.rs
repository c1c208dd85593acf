//! `remint generate ...`: what packages ship besides the program. Made from the definition of the commands.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command as Clap, CommandFactory, Subcommand};
use clap_complete::Shell;

use super::{Arguments, Failure, output};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print the completions of a shell
    Completions { shell: Shell },
    /// Write a manual page for each command into a folder
    Man { folder: PathBuf },
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "remint", &mut text);
            output::line(String::from_utf8_lossy(&text).trim_end());
            Ok(())
        }
        Command::Man { folder } => {
            fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
            let mut command = Arguments::command();
            command.build();
            pages(&command, "remint", folder)
        }
    }
}

/// `remint.1`, `remint-image.1`, `remint-image-import.1` ...
fn pages(command: &Clap, name: &str, folder: &Path) -> Result<(), Failure> {
    let path = folder.join(format!("{name}.1"));
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(command.clone()).manual("Remint").render(&mut text);
    rendered.and_then(|()| fs::write(&path, text)).map_err(|error| failed(&path, &error))?;
    let visible = command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    for command in visible {
        pages(command, &format!("{name}-{}", command.get_name()), folder)?;
    }
    Ok(())
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("write {}: {error}", path.display()))
}
