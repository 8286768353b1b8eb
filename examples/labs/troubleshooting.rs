use crate::lab::Lab;

pub(crate) const LABS: &[Lab] = &[];
