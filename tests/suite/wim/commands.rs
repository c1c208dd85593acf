//! `remint wim` as people call it: each option does what its help says, and `--json` is JSON.

use serde_json::Value;

use super::*;

struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    /// A tree of three files and a link.
    fn new() -> Lab {
        let lab = Lab { folder: tempfile::tempdir().unwrap() };
        let tree = lab.path("tree");
        fs::create_dir_all(tree.join("logs")).unwrap();
        fs::write(tree.join("text"), "a line that repeats itself\n".repeat(9_000)).unwrap();
        fs::write(tree.join("noise"), (0..1_500_000u32).map(noise).collect::<Vec<u8>>()).unwrap();
        fs::write(tree.join("logs/today.log"), "nobody wants it").unwrap();
        symlink("text", tree.join("link")).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &str) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remint"));
        command.current_dir(self.folder.path()).arg("wim").args(arguments.split_whitespace()).output().unwrap()
    }

    fn json(&self, arguments: &str) -> Value {
        let output = self.run(&format!("{arguments} --json"));
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments}: {error}"))
    }

    /// What is said when it fails.
    fn refusal(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments} succeeds");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn info(&self, file: &str) -> Value {
        self.json(&format!("info {file}"))
    }

    fn applies(&self, file: &str, folder: &str) {
        let report = self.json(&format!("apply {file} 1 {folder}"));
        assert_eq!((&report["damage"], &report["not_held"]), (&serde_json::json!([]), &serde_json::json!({})));
        assert_eq!(snapshot(&self.path(folder)), snapshot(&self.path("tree")), "{file}");
    }
}

fn noise(at: u32) -> u8 {
    (at.wrapping_mul(2_654_435_761).rotate_left(at % 31) >> 23) as u8
}

#[test]
fn a_capture_is_what_its_options_say() {
    let lab = Lab::new();
    let captured = lab.json("capture tree x.wim --compress lzx --integrity --name Named --description said");
    assert_eq!((&captured["image"], &captured["files"]), (&1.into(), &4.into()), "{captured}");
    let info = lab.info("x.wim");
    assert_eq!((&info["compression"], &info["integrity"]), (&"lzx".into(), &true.into()), "{info}");
    assert_eq!((&info["images"][0]["name"], &info["images"][0]["description"]), (&"Named".into(), &"said".into()));
    assert_eq!(lab.json("verify x.wim")["sound"], true);
    lab.applies("x.wim", "applied");
    let appended = lab.json("capture tree x.wim --append --name Second --exclude *.log --exclude /link");
    assert_eq!((&appended["image"], &appended["excluded"]), (&2.into(), &2.into()), "{appended}");
    let names = lab.json("list x.wim Second")["files"].as_array().unwrap().clone();
    let paths: Vec<&str> = names.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/logs", "/noise", "/text"]);
    assert!(lab.refusal("capture tree x.wim --append --compress lzx").contains("hint: leave --compress out"));
    assert!(lab.refusal("capture tree x.wim --append --name Named").contains("image of this name already"));
    assert!(lab.refusal("capture tree y.wim --append --pipable").contains("--pipable"));
    assert!(lab.refusal("capture tree y.wim --compress none --solid").contains("only where they are compressed"));
    assert!(!lab.path("y.wim").exists());
}

#[test]
fn an_export_is_what_its_options_say() {
    let lab = Lab::new();
    lab.json("capture tree x.wim --name Named");
    lab.json("export x.wim Named solid.wim --compress lzx --solid --integrity --name Other --description new");
    let solid = lab.info("solid.wim");
    assert_eq!(
        (&solid["solid"], &solid["compression"], &solid["integrity"]),
        (&true.into(), &"lzx".into(), &true.into())
    );
    assert_eq!((&solid["images"][0]["name"], &solid["images"][0]["description"]), (&"Other".into(), &"new".into()));
    lab.applies("solid.wim", "from-solid");
    lab.json("export x.wim 1 pipable.wim --pipable");
    assert_eq!(lab.info("pipable.wim")["pipable"], true);
    lab.applies("pipable.wim", "from-pipable");
    let split = lab.json("export x.wim 1 part.swm --compress none --split 1");
    assert!(split["parts"].as_u64().unwrap() >= 2 && lab.path("part2.swm").exists(), "{split}");
    lab.applies("part.swm", "from-parts");
    lab.json("export x.wim 1 solid.wim --append");
    assert_eq!(lab.info("solid.wim")["images"].as_array().unwrap().len(), 2);
    lab.json("export solid.wim all both.wim");
    assert_eq!(lab.info("both.wim")["images"].as_array().unwrap().len(), 2);
    assert!(lab.refusal("export solid.wim all z.wim --name One").contains("give several images one name"));
    assert!(lab.refusal("export x.wim 7 z.wim").contains('7'));
    assert!(lab.refusal("export x.wim 1 z.wim --pipable --split 5").contains("--split"));
}
