//! Where snapshots are kept: a folder, or a bucket of an S3-compatible store.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ClientConfigKey, ObjectStore, ObjectStoreExt as _, WriteMultipart};
use tally_projector::Snapshots;
use tally_projector::snapshot::{ObjectError, Objects};
use tokio::runtime::{Builder, Runtime};

use crate::config::Config;
use crate::failure::Failure;

/// How much of a file is read and sent at once, in bytes. S3 takes no smaller parts than 5 MiB, and no
/// more than 10,000 of them: a snapshot has at most 80 GiB.
const PART: usize = 8 << 20;
/// How long a request may take from its beginning to its end, and how long a store may say nothing.
const LONGEST_REQUEST: &str = "6 hours";
const LONGEST_SILENCE: &str = "30 seconds";
/// How many parts are on their way at once.
const PARTS_AT_ONCE: usize = 2;

/// What `snapshots.url` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing.
    Nowhere,
    /// `file:///path`
    Folder(PathBuf),
    /// `s3://bucket/prefix`
    Bucket {
        /// The bucket.
        bucket: String,
        /// What all names there begin with; perhaps empty.
        prefix: String,
    },
}

impl Place {
    /// Reads it; an error says what is valid.
    pub(crate) fn of(url: &str) -> Result<Self, String> {
        if url.is_empty() {
            return Ok(Self::Nowhere);
        }
        if let Some(path) = url
            .strip_prefix("file://")
            .filter(|path| path.starts_with('/'))
        {
            return Ok(Self::Folder(PathBuf::from(path)));
        }
        if let Some(place) = url.strip_prefix("s3://") {
            let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
            if !bucket.is_empty() && !bucket.contains(['@', ':']) {
                return Ok(Self::Bucket {
                    bucket: bucket.to_owned(),
                    prefix: prefix.trim_matches('/').to_owned(),
                });
            }
        }
        Err(format!(
            "{url:?} is no place for snapshots; valid are \"file:///folder\", \"s3://bucket/prefix\", or \"\" for none"
        ))
    }
}

/// The snapshots that the settings name; `None` where they name no place.
pub(crate) fn snapshots(config: &Config) -> Result<Option<Snapshots>, Failure> {
    let url = &config.snapshots.url;
    let failed = |error: String| {
        Failure::run(format!(
            "snapshots can't be kept at {url} (setting snapshots.url): {error}"
        ))
    };
    let place = Place::of(url).map_err(failed)?;
    let mut folder = None;
    let (store, prefix): (Box<dyn ObjectStore>, String) = match place {
        Place::Nowhere => return Ok(None),
        Place::Folder(path) => {
            // Of the root, so that a folder that is not mounted now may come later.
            let store = LocalFileSystem::new().with_fsync(true);
            let prefix = path.to_str().map(|path| path.trim_matches('/').to_owned());
            let prefix = prefix.ok_or_else(|| failed("its name is no UTF-8".to_owned()))?;
            folder = Some(path);
            (Box::new(store), prefix)
        }
        Place::Bucket { bucket, prefix } => {
            // The keys come from the environment, and are in no setting of ours.
            let builder = AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                // Of a whole request, and a snapshot may be large: a client that hears nothing gives up
                // by itself.
                .with_config(
                    AmazonS3ConfigKey::Client(ClientConfigKey::Timeout),
                    LONGEST_REQUEST,
                )
                .with_config(
                    AmazonS3ConfigKey::Client(ClientConfigKey::ReadTimeout),
                    LONGEST_SILENCE,
                );
            let store = builder.build().map_err(|error| failed(error.to_string()))?;
            (Box::new(store), prefix)
        }
    };
    let runtime = Builder::new_current_thread()
        .thread_name("tally-objects")
        .enable_all()
        .build()
        .map_err(Failure::of)?;
    let stored = Stored {
        url: url.clone(),
        folder,
        store: Arc::from(store),
        prefix,
        runtime: Some(runtime),
    };
    let keep = config.snapshots.keep.as_usize();
    Ok(Some(Snapshots::in_objects(Arc::new(stored), keep)))
}

/// Objects of a store. Its calls block, and are for threads that may.
struct Stored {
    url: String,
    /// Where it is one: it has to be there.
    folder: Option<PathBuf>,
    store: Arc<dyn ObjectStore>,
    prefix: String,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Stored {
    fn drop(&mut self) {
        // Whoever drops it may be a task, which may not wait for a runtime's end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Stored {
    /// Does what the store is asked for.
    fn wait<T, E: std::fmt::Display>(
        &self,
        (name, doing): (&str, &'static str),
        asked: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ObjectError> {
        let failed = self.error(name, doing);
        if self.folder.as_ref().is_some_and(|folder| !folder.is_dir()) {
            return Err(failed(&"the folder is not there: make it, or mount it"));
        }
        match &self.runtime {
            Some(runtime) => runtime.block_on(asked).map_err(|error| failed(&error)),
            None => Err(failed(&"it is closed")),
        }
    }

    fn key(&self, name: &str) -> Key {
        Key::from(format!("{}/{name}", self.prefix))
    }

    fn error(
        &self,
        name: &str,
        doing: &'static str,
    ) -> impl Fn(&dyn std::fmt::Display) -> ObjectError {
        let (name, place) = (name.to_owned(), self.url.clone());
        move |why| ObjectError {
            name: name.clone(),
            doing,
            place: place.clone(),
            why: without_body(&why.to_string()),
        }
    }

    async fn send(&self, key: &Key, file: &mut File) -> Result<(), Box<dyn std::error::Error>> {
        let upload = self.store.put_multipart(key).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        if let Err(error) = parts(&mut upload, file).await {
            // What was sent of it is no object; where this fails too, a rule of the bucket removes it.
            let _ = upload.abort().await;
            return Err(error);
        }
        upload.finish().await?;
        Ok(())
    }

    async fn receive(&self, key: &Key, file: &mut File) -> Result<(), Box<dyn std::error::Error>> {
        let mut pieces = self.store.get(key).await?.into_stream();
        while let Some(piece) = pieces.next().await {
            file.write_all(&piece?)?;
        }
        Ok(())
    }
}

async fn parts(
    upload: &mut WriteMultipart,
    file: &mut File,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut part = vec![0; PART];
    loop {
        // The file has just been written, so it is read from memory.
        let read = file.read(&mut part)?;
        if read == 0 {
            return Ok(());
        }
        upload.wait_for_capacity(PARTS_AT_ONCE).await?;
        upload.write(part.get(..read).unwrap_or_default());
    }
}

/// An error's text without what a store sent with it, which may hold tokens and signatures: up to the
/// status, and the error's code.
fn without_body(text: &str) -> String {
    let code = text
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    let code = code.map_or("", |(code, _)| code);
    let head = text.split(['<', '{', '\n']).next().unwrap_or_default();
    let head = match head.split_once("status code: ") {
        Some((before, after)) => {
            let status = after.split(':').next().unwrap_or_default();
            format!("{before}status code: {status}")
        }
        None => head.to_owned(),
    };
    let head = head.trim_end_matches([' ', ':']);
    match code {
        "" => head.to_owned(),
        code => format!("{head} ({code})"),
    }
}

impl Objects for Stored {
    fn place(&self) -> String {
        self.url.clone()
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        let listed = self.store.list(Some(&self.key(prefix)));
        let objects = self.wait((prefix, "listed"), listed.try_collect::<Vec<_>>())?;
        let of_ours = |object: &object_store::ObjectMeta| {
            let parts = object
                .location
                .prefix_match(&Key::from(self.prefix.as_str()))?;
            let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
            Some(parts.join("/"))
        };
        Ok(objects.iter().filter_map(of_ours).collect())
    }

    fn put(&self, name: &str, file: &Path) -> Result<(), ObjectError> {
        let opened = File::open(file);
        let mut file = opened.map_err(|error| self.error(name, "written")(&error))?;
        let key = self.key(name);
        self.wait((name, "written"), self.send(&key, &mut file))
    }

    fn get(&self, name: &str, file: &Path) -> Result<(), ObjectError> {
        let made = File::create(file);
        let mut file = made.map_err(|error| self.error(name, "read")(&error))?;
        let key = self.key(name);
        self.wait((name, "read"), self.receive(&key, &mut file))
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let key = self.key(name);
        let deleted = async {
            match self.store.delete(&key).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.wait((name, "removed"), deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the setting: what it means, and that nothing else is taken for a place.
    #[test]
    fn places_are_folders_and_buckets() {
        assert_eq!(Place::of(""), Ok(Place::Nowhere));
        let folder = Place::Folder(PathBuf::from("/var/x"));
        assert_eq!(Place::of("file:///var/x"), Ok(folder));
        for (url, prefix) in [("s3://b", ""), ("s3://b/", ""), ("s3://b/c/d/", "c/d")] {
            let bucket = Place::Bucket {
                bucket: "b".to_owned(),
                prefix: prefix.to_owned(),
            };
            assert_eq!(Place::of(url), Ok(bucket), "{url}");
        }
        for url in [
            "/var/x", "file://x", "s3://", "s3:///x", "http://x", "gs://b",
        ] {
            let error = Place::of(url).unwrap_err();
            assert!(error.contains("s3://bucket/prefix"), "{error}");
        }
    }
    /// Protects secrets: of what a store answers an error keeps status and code.
    #[test]
    fn an_error_has_no_body() {
        let body = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?><Error><Code>ExpiredToken</Code><Token-0>canary</Token-0></Error>";
        for (text, shown) in [
            (
                body.to_owned(),
                "Server returned non-2xx status code: 403 Forbidden (ExpiredToken)",
            ),
            (
                "Generic S3 error: status code: 400 Bad Request: canary".to_owned(),
                "Generic S3 error: status code: 400 Bad Request",
            ),
            ("denied: {\"token\":\"canary\"}".to_owned(), "denied"),
            ("nothing listens".to_owned(), "nothing listens"),
        ] {
            assert_eq!(without_body(&text), shown);
        }
    }
}
