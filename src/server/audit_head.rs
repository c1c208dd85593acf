//! The end of the audit log, written down beside the database and signed: a cut end is noticed by `remint audit verify`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::site::Site;
use crate::access::audit::{self, Head};
use crate::access::signing::{PublicKey, SigningKey};
use crate::db::Db;
use crate::stdx::file::write_whole;
use crate::stdx::hex;

/// Entries of this many seconds can be cut off unseen.
const EVERY: Duration = Duration::from_secs(60);

pub(super) struct HeadFile {
    path: PathBuf,
    db: Arc<Db>,
    key: Arc<SigningKey>,
}

impl HeadFile {
    pub(super) fn of(site: &Site) -> HeadFile {
        HeadFile { path: site.folder.join("audit.head"), db: site.db.clone(), key: site.signing.clone() }
    }

    /// Writes down the end, unless the log ends before what was written down once: then the file is the proof.
    fn note(&self) -> Result<(), Box<dyn std::error::Error>> {
        let head = audit::head(&self.db)?;
        let known = read(&self.path, &self.key.public());
        if known.as_ref().is_some_and(|known| known.number > head.number) {
            return Err(format!("the audit log ends with entry {}, before what was written down", head.number).into());
        }
        if known.as_ref() != Some(&head) {
            write_whole(&self.path, emit(&head, &self.key).as_bytes())?;
        }
        Ok(())
    }
}

/// The end as it was written down and signed; `None` when the file is not there or not the site's.
pub(super) fn read(path: &Path, key: &PublicKey) -> Option<Head> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut words = text.split_ascii_whitespace();
    let (number, hash, signature) = (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?);
    let head = Head { number, hash };
    key.accepts(signed(&head).as_bytes(), &hex::parse(signature)?).then_some(head)
}

fn emit(head: &Head, key: &SigningKey) -> String {
    format!("{} {} {}\n", head.number, head.hash, hex::emit(&key.sign(signed(head).as_bytes())))
}

fn signed(head: &Head) -> String {
    format!("remint audit head 1 {} {}", head.number, head.hash)
}

/// Writes the end down every minute, and once more at the end.
pub(super) async fn keep(file: HeadFile, mut stopped: watch::Receiver<bool>) {
    let file = Arc::new(file);
    loop {
        let (noting, ending) = (file.clone(), *stopped.borrow());
        let noted = tokio::task::spawn_blocking(move || noting.note().map_err(|error| error.to_string())).await;
        if let Ok(Err(error)) = noted {
            tracing::error!("the end of the audit log is not written down: {error}");
        }
        if ending {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::time::Timestamp;

    #[test]
    fn a_cut_end_is_noticed_and_what_was_written_down_stays() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::create(&folder.path().join("site"), "test").unwrap();
        for _ in 0..3 {
            let append = |tx: &rusqlite::Transaction<'_>| audit::append(tx, Timestamp::default(), "a", "b", "c", "");
            site.db.write::<_, rusqlite::Error>(append).unwrap();
        }
        let file = HeadFile::of(&site);
        file.note().unwrap();
        let anchor = read(&file.path, &site.signing.public()).unwrap();
        assert_eq!((anchor.number, audit::verify_from(&site.db, &anchor).unwrap()), (3, 3));
        site.db.write::<_, rusqlite::Error>(|tx| tx.execute("DELETE FROM audit WHERE number = 3", [])).unwrap();
        assert!(file.note().is_err());
        assert_eq!(read(&file.path, &site.signing.public()), Some(anchor.clone()));
        assert!(matches!(audit::verify_from(&site.db, &anchor), Err(audit::Error::Cut { found: 2, expected: 3 })));
        std::fs::write(&file.path, emit(&Head { number: 2, ..anchor }, &site.signing).replace("2 ", "1 ")).unwrap();
        assert_eq!(read(&file.path, &site.signing.public()), None, "a changed file is not the site's");
    }
}
