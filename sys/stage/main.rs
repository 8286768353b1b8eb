//! The stage: a static program without libc that runs one image in memory of its own and then executes the payload.
//!
//! It finds the image at descriptor 4, runs it, and ends: on success by the `execve` in it, otherwise by exit, after
//! the fault was written to the image, which the program that spawned it shares.
#![no_std]
#![no_main]

#[path = "../src/interp.rs"]
mod interp;
#[path = "../src/role.rs"]
mod role;
#[path = "../src/sys.rs"]
mod sys;
#[path = "../src/wire.rs"]
mod wire;
#[path = "sys.rs"]
mod start;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    start::exit(101)
}
