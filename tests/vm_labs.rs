//! Labs that need controllers, modules or a security module: in the test machine.

#[path = "common/labs.rs"]
mod labs;

labs::labs! {
    lab_1 = 1,
    lab_6 = 6,
    lab_44 = 44,
    stress_lab_45 = 45,
    stress_lab_46 = 46,
    lab_47 = 47,
    lab_48 = 48,
    stress_lab_49 = 49,
    lab_64 = 64,
    lab_66 = 66,
    lab_67 = 67,
    lab_74 = 74,
    lab_87 = 87,
    lab_88 = 88,
    lab_91 = 91,
    lab_92 = 92,
}
