//! Labs that need controllers, modules or a security module: in the test machine.

#[path = "common/labs.rs"]
mod labs;

labs::labs! {
    lab_1 = 1,
}
