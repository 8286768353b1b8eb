//! Reading of archives that may be bombs.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use crate::error::{Error, ErrorKind};

/// A limit that was hit; it travels through the readers of others as an `io::Error`.
#[derive(Debug)]
struct Hit(&'static str);

impl std::fmt::Display for Hit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Hit {}

/// An error while reading an archive: a limit, a broken stream, or the system's.
pub(super) fn read_error(error: &io::Error) -> Error {
    if let Some(hit) = error.get_ref().and_then(|inner| inner.downcast_ref::<Hit>()) {
        return Error::new(ErrorKind::Limit, hit.0);
    }
    match error.raw_os_error() {
        Some(_) => Error::io(error, "reading the archive"),
        None => Error::new(ErrorKind::Archive, format!("broken archive: {error}")),
    }
}

/// Counts what is read of the compressed stream.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

/// What an archive is still allowed to cost, over all layers of an image.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    /// Decompressed bytes, headers included.
    pub(super) stream: Rc<Cell<u64>>,
    pub(super) ratio: u64,
}

/// Streams below this size are not judged by their ratio: small ones of zeros compress a thousandfold.
const RATIO_FROM: u64 = 64 << 20;

/// The decompressed stream of an archive, within its budget.
struct Limited<R> {
    inner: R,
    read: u64,
    compressed: Rc<Cell<u64>>,
    budget: Budget,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        let Some(left) = self.budget.stream.get().checked_sub(n as u64) else {
            return Err(io::Error::other(Hit("the archive has more bytes than allowed")));
        };
        self.budget.stream.set(left);
        if self.read > RATIO_FROM && self.read / self.compressed.get().max(1) > self.budget.ratio {
            return Err(io::Error::other(Hit("the archive is compressed more than allowed: a bomb")));
        }
        Ok(n)
    }
}

/// All frames of a zstd stream, one after the other.
struct Frames<R: BufRead> {
    source: Shared<R>,
    frame: Option<ruzstd::decoding::StreamingDecoder<Shared<R>, ruzstd::decoding::FrameDecoder>>,
}

/// The stream below, which every frame's decoder reads on from.
struct Shared<R>(Rc<RefCell<R>>);

impl<R: Read> Read for Shared<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(buffer)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let n = frame.read(buffer)?;
                if n > 0 || buffer.is_empty() {
                    return Ok(n);
                }
                self.frame = None;
            }
            if self.source.0.borrow_mut().fill_buf()?.is_empty() {
                return Ok(0);
            }
            let next = Shared(Rc::clone(&self.source.0));
            let broken = |error| io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {error}"));
            self.frame = Some(ruzstd::decoding::StreamingDecoder::new(next).map_err(broken)?);
        }
    }
}

/// The contents of a possibly compressed stream: gzip and zstd are known by their first bytes.
pub(super) fn decompressed<'a>(source: impl Read + 'a, budget: &Budget) -> io::Result<Box<dyn Read + 'a>> {
    let compressed = Rc::new(Cell::new(0));
    let mut source = BufReader::new(Counted { inner: source, count: Rc::clone(&compressed) });
    let magic = source.fill_buf()?;
    let inner: Box<dyn Read + 'a> = match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(Frames { source: Shared(Rc::new(RefCell::new(source))), frame: None })
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] | [b'B', b'Z', b'h', ..] => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "xz and bzip2 are not supported: gzip, zstd, or none",
            ));
        }
        _ => Box::new(source),
    };
    Ok(Box::new(Limited { inner, read: 0, compressed, budget: budget.clone() }))
}
