//! Images: which layers there are, in which order.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::limit::read_error;
use super::store::Store;
use super::tree::clean;
use super::unpack::{Job, Unpack, Unpacked};
use crate::error::{Error, ErrorKind, Result};

/// A container image on disk: an [OCI image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md)
/// as a directory or as a tar archive, an archive of `docker save`, or a plain tar archive of a root file system.
///
/// Every part that is named by a digest is compared with it (sha256) before it counts as unpacked.
#[derive(Debug)]
pub struct Image {
    store: Store,
    layers: Vec<Blob>,
    config: Option<Blob>,
}

/// A part of an image.
#[derive(Clone, Debug)]
struct Blob {
    path: PathBuf,
    /// sha256 in hexadecimal, and the size, where the format tells.
    expect: Option<(String, u64)>,
}

/// The most of a document that is read.
const MAX_DOCUMENT: u64 = 4 << 20;
/// How deep indexes may be nested, and how many layers an image may have.
const MAX_NESTING: usize = 4;
const MAX_LAYERS: usize = 1000;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const ARCHITECTURE: &str = "amd64";

impl Image {
    /// Opens the image at `path`; it has to be the only one there for this machine.
    ///
    /// # Errors
    /// Nothing that is known as an image, several of them, a document that breaks its format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::find(path.as_ref(), None)
    }

    /// Opens the image that is called `reference`: an OCI reference name, or a tag of `docker save`.
    ///
    /// # Errors
    /// As [`Image::open`], and [`ErrorKind::NotFound`] without one of that name.
    pub fn open_reference(path: impl AsRef<Path>, reference: &str) -> Result<Self> {
        Self::find(path.as_ref(), Some(reference))
    }

    fn find(path: &Path, reference: Option<&str>) -> Result<Self> {
        let path = &std::fs::canonicalize(path).map_err(|error| Error::io(&error, "the image").at(path))?;
        let meta = std::fs::metadata(path).map_err(|error| Error::io(&error, "the image").at(path))?;
        let store = if meta.is_dir() {
            Store::directory(path)?
        } else if meta.is_file() {
            let file = File::open(path).map_err(|error| Error::io(&error, "the image").at(path))?;
            match Store::archive(file) {
                Ok(store) => store,
                // Compressed, or a root file system whose first entries are no image's: one layer.
                Err(error) if matches!(error.kind(), ErrorKind::Archive | ErrorKind::Limit) => {
                    return Self::plain(path);
                }
                Err(error) => return Err(error.at(path)),
            }
        } else {
            return Err(Error::new(ErrorKind::WrongType, "an image is a directory or a file").at(path));
        };
        let found = if store.has("index.json") && store.has("oci-layout") {
            Self::oci(&store, reference)
        } else if store.has("manifest.json") {
            Self::docker(&store, reference)
        } else if meta.is_file() {
            return Self::plain(path);
        } else {
            return Err(Error::new(
                ErrorKind::NotFound,
                "no index.json and no manifest.json: this is no image",
            )
            .at(path));
        };
        let (config, layers) = found.map_err(|error| match error.path() {
            Some(_) => error,
            None => error.at(path),
        })?;
        if layers.len() > MAX_LAYERS {
            return Err(Error::new(ErrorKind::Limit, format!("{} layers", layers.len())).at(path));
        }
        Ok(Self { store, layers, config: Some(config) })
    }

    /// A tar archive of a root file system as an image of one layer.
    fn plain(path: &Path) -> Result<Self> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = path.file_name().ok_or_else(|| Error::new(ErrorKind::InvalidPath, "no name").at(path))?;
        let layer = Blob { path: name.into(), expect: None };
        Ok(Self { store: Store::directory(parent)?, layers: vec![layer], config: None })
    }

    fn oci(store: &Store, reference: Option<&str>) -> Result<(Blob, Vec<Blob>)> {
        let index: Index = document(store, &Blob { path: "index.json".into(), expect: None })?;
        let mut candidates = index.manifests;
        if let Some(reference) = reference {
            candidates.retain(|one| one.annotations.get(REF_NAME).is_some_and(|name| name == reference));
        }
        for _ in 0..MAX_NESTING {
            let fits = |one: &Descriptor| {
                one.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == ARCHITECTURE)
            };
            candidates.retain(fits);
            let chosen = match candidates.as_slice() {
                [one] => one.clone(),
                [] => return Err(Error::new(ErrorKind::NotFound, "no such image for linux on amd64")),
                _ => {
                    let names = candidates
                        .iter()
                        .map(|one| one.annotations.get(REF_NAME).map_or("?", String::as_str));
                    let what = format!("several images: {}", names.collect::<Vec<_>>().join(", "));
                    return Err(Error::new(ErrorKind::Conflict, what).hint("say which one by its reference"));
                }
            };
            if chosen.media_type.contains("index") || chosen.media_type.contains("manifest.list") {
                candidates = document::<Index>(store, &chosen.blob()?)?.manifests;
                continue;
            }
            let manifest: Manifest = document(store, &chosen.blob()?)?;
            let layers = manifest.layers.iter().map(Descriptor::blob).collect::<Result<_>>()?;
            return Ok((manifest.config.blob()?, layers));
        }
        Err(Error::new(ErrorKind::Limit, "indexes nested too deeply"))
    }

    fn docker(store: &Store, reference: Option<&str>) -> Result<(Blob, Vec<Blob>)> {
        let mut images: Vec<DockerManifest> =
            document(store, &Blob { path: "manifest.json".into(), expect: None })?;
        if let Some(reference) = reference {
            images.retain(|one| one.repo_tags.iter().flatten().any(|tag| tag == reference));
        }
        let [image] = images.as_slice() else {
            let (kind, what) = match images.len() {
                0 => (ErrorKind::NotFound, "no such image"),
                _ => (ErrorKind::Conflict, "several images"),
            };
            return Err(Error::new(kind, what).hint("say which one by its tag"));
        };
        let part = |name: &String| -> Result<Blob> {
            let path = clean(name.as_bytes())?;
            // Newer archives keep their parts where an OCI layout has them, named by digest.
            let digest = path.strip_prefix("blobs/sha256").ok().and_then(Path::to_str).map(str::to_owned);
            let expect = digest.map(|hex| store.open(&path).map(|(_, size)| (hex, size))).transpose()?;
            Ok(Blob { path, expect })
        };
        Ok((part(&image.config)?, image.layers.iter().map(part).collect::<Result<_>>()?))
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The image's configuration (environment, command, user …), a
    /// [JSON document](https://github.com/opencontainers/image-spec/blob/main/config.md); nothing for a plain archive.
    ///
    /// # Errors
    /// A missing or false document.
    pub fn config(&self) -> Result<Option<Vec<u8>>> {
        self.config.as_ref().map(|blob| bytes(&self.store, blob)).transpose()
    }

    /// Unpacks all layers, the lowest first, into an empty directory, which is made if it is missing.
    ///
    /// # Errors
    /// As [`Unpack::tar`]; a layer whose digest is another one than the image says.
    pub fn unpack(&self, into: impl AsRef<Path>, options: &Unpack) -> Result<Unpacked> {
        let into = into.as_ref();
        match std::fs::create_dir(into) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let mut list =
                    std::fs::read_dir(into).map_err(|error| Error::io(&error, "the directory").at(into))?;
                if list.next().is_some() {
                    return Err(
                        Error::new(ErrorKind::Conflict, "the directory to unpack into is not empty").at(into)
                    );
                }
            }
            Err(error) => return Err(Error::io(&error, "making the directory").at(into)),
        }
        let mut job = Job::new(options, into)?;
        for layer in &self.layers {
            let (source, size) = self.store.open(&layer.path)?;
            let mut checked = Checked::new(source);
            job.layer(&mut checked)?;
            checked.verify(layer, size)?;
        }
        job.finish()
    }
}

impl Descriptor {
    fn blob(&self) -> Result<Blob> {
        let hex = self.digest.strip_prefix("sha256:").filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        let Some(hex) = hex else {
            let shown: String = self.digest.chars().take(100).collect();
            return Err(Error::new(ErrorKind::Archive, format!("{shown:?} is no sha256 digest")));
        };
        Ok(Blob { path: Path::new("blobs/sha256").join(hex), expect: Some((hex.to_owned(), self.size)) })
    }
}

fn bytes(store: &Store, blob: &Blob) -> Result<Vec<u8>> {
    let (source, size) = store.open(&blob.path)?;
    if size > MAX_DOCUMENT {
        return Err(Error::new(ErrorKind::Limit, "a document of more than 4 MiB").at(&blob.path));
    }
    let mut checked = Checked::new(source);
    let mut data = Vec::new();
    (&mut checked).take(MAX_DOCUMENT + 1).read_to_end(&mut data).map_err(|error| read_error(&error))?;
    checked.verify(blob, size)?;
    Ok(data)
}

fn document<T: for<'a> Deserialize<'a>>(store: &Store, blob: &Blob) -> Result<T> {
    let data = bytes(store, blob)?;
    serde_json::from_slice(&data)
        .map_err(|error| Error::new(ErrorKind::Archive, format!("not as documented: {error}")).at(&blob.path))
}

/// Reads and computes the digest of what is read.
struct Checked<R> {
    inner: R,
    hash: Sha256,
    len: u64,
}

impl<R: Read> Checked<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), len: 0 }
    }

    /// Reads on to the end, and compares.
    fn verify(mut self, blob: &Blob, size: u64) -> Result<()> {
        let Some((digest, expected)) = &blob.expect else { return Ok(()) };
        if size != *expected {
            let what = format!("{size} bytes, but the image says {expected}");
            return Err(Error::new(ErrorKind::Archive, what).at(&blob.path));
        }
        io::copy(&mut self, &mut io::sink()).map_err(|error| read_error(&error))?;
        let found: String = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if self.len != *expected || found != *digest {
            return Err(Error::new(ErrorKind::Archive, "its contents have another digest than its name")
                .at(&blob.path));
        }
        Ok(())
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.len += n as u64;
        Ok(n)
    }
}
