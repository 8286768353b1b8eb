#![expect(unsafe_code, reason = "the entry to the interpreter")]

use crate::fault::Fault;
use crate::image::Image;
use crate::interp;
use crate::sys::Memory;
use crate::wire::EFAULT;

impl Image {
    /// Runs the program in the calling thread. Makes no allocation and takes no lock: it may be called between fork
    /// and exec.
    ///
    /// # Errors
    /// The operation that failed; what came before it has happened.
    ///
    /// # Safety
    /// The calls act on the calling thread and process: its descriptors, directories, mounts, identity. The caller
    /// wants just that, and nothing else in the process relies on what they change.
    pub unsafe fn run(&mut self) -> Result<(), Fault> {
        let (words, len) = self.words_mut();
        // SAFETY: the words are aligned, `len` bytes of them are ours alone for the call, and the operations are
        // those of the builder.
        let memory = unsafe { Memory::new(words.as_mut_ptr().cast(), len) };
        let Some(mut memory) = memory else { return Err(Fault { index: 0, errno: EFAULT, bit: 0 }) };
        Self::finish(interp::run(&mut memory))
    }
}
