//! Where the site's content store keeps its packs, as remint.toml says.

use std::path::Path;
use std::sync::Arc;

use super::site::Error;
use crate::config::written::{Far, Store};
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::near;
use crate::imaging::store::objects::{Folder, Objects, Several};

/// Opens the store below the site's `folder`. Places far away are not asked yet: the appliance starts without them.
pub(super) fn open(folder: &Path, written: &Store) -> Result<LocalStore, Error> {
    let store = LocalStore::open(&folder.join("store"))?;
    let mut places = written.far.iter().map(|far| place(folder, far)).collect::<Result<Vec<_>, Error>>()?;
    let objects: Arc<dyn Objects> = match places.len() {
        0 => return Ok(store),
        1 => places.remove(0),
        _ => Arc::new(Several(places)),
    };
    Ok(store.with_far(near::Far::new(objects, written.near_gib << 30)))
}

fn place(site: &Path, far: &Far) -> Result<Arc<dyn Objects>, Error> {
    match (&far.folder, &far.bucket) {
        (Some(folder), None) => Ok(Arc::new(Folder::new(folder))),
        (None, Some(name)) => bucket(site, far, name),
        _ => Err(wrong("`[[store.far]]` needs either `folder` or `bucket`")),
    }
}

#[cfg(feature = "object-store")]
fn bucket(site: &Path, far: &Far, name: &str) -> Result<Arc<dyn Objects>, Error> {
    use std::fs;

    use crate::access::secret::Secret;
    use crate::imaging::store::bucket::{Bucket, Settings};

    let Some(secret) = &far.secret_key_file else {
        return Err(wrong("a bucket under `[[store.far]]` needs `access_key` and `secret_key_file`"));
    };
    let read = |path: &Path| {
        let path = site.join(path);
        fs::read_to_string(&path).map_err(|source| Error::File { path, source })
    };
    let is_plain = far.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let settings = Settings {
        bucket: name.to_owned(),
        endpoint: far.endpoint.clone(),
        region: far.region.clone(),
        prefix: far.prefix.clone(),
        access_key: far.access_key.clone(),
        secret_key: Secret::new(read(secret)?.trim()),
        authorities_pem: if is_plain { String::new() } else { read(&far.authorities)? },
    };
    Ok(Arc::new(Bucket::open(settings)?))
}

#[cfg(not(feature = "object-store"))]
fn bucket(_: &Path, _: &Far, _: &str) -> Result<Arc<dyn Objects>, Error> {
    Err(wrong("this program was built without `object-store`: a bucket cannot be used"))
}

fn wrong(detail: &str) -> Error {
    Error::Configuration { path: "remint.toml".into(), detail: detail.to_owned() }
}
