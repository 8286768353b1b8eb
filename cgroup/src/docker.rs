//! Docker's options in terms of cgroup v2, with the arithmetic of Docker and runc.

use crate::cpu::CpuMax;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::value::{Bytes, Limit, Weight};

/// `--cpu-shares` as a weight, as runc 1.3.2, crun and their successors convert it: 1024 shares are the default weight
/// 100, and both ends of the range meet. 0 is 'not set'.
pub fn cpu_weight(shares: u64) -> Option<Weight> {
    let weight = match shares {
        0 => return None,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            // Between 2 and 262144 the curve runs from just above 1 to 10000.
            10f64.powf(exponent).ceil() as u16
        }
    };
    Weight::new(weight.clamp(1, 10_000)).ok()
}

/// `--cpu-shares` as a weight, as runc before 1.3.2 converted it: linear, so that 1024 shares are a weight of 39.
pub fn cpu_weight_linear(shares: u64) -> Option<Weight> {
    if shares == 0 {
        return None;
    }
    let shares = shares.clamp(2, 262_144);
    let weight = 1 + (shares - 2) * 9999 / 262_142;
    Weight::new(u16::try_from(weight).unwrap_or(10_000)).ok()
}

/// `--blkio-weight`, 10 to 1000, as `io.weight`. 0 is 'not set'; anything else outside the range is taken as its nearest
/// end.
pub fn io_weight(blkio_weight: u16) -> Option<Weight> {
    if blkio_weight == 0 {
        return None;
    }
    let w = u32::from(blkio_weight.clamp(10, 1000));
    Weight::new(u16::try_from(1 + (w - 10) * 9999 / 990).unwrap_or(10_000)).ok()
}

/// `--cpus`, in billionths of a CPU as Docker's API has it, on a machine with `available` CPUs. 0 is 'not set'.
///
/// # Errors
/// [`InvalidValue`](crate::ErrorKind::InvalidValue) for more CPUs than there are, or less than 1/100 of one (the kernel's
/// least quota, 1 ms in 100 ms).
pub fn cpu_max(nano_cpus: u64, available: u32) -> Result<Option<CpuMax>> {
    const BILLION: u64 = 1_000_000_000;
    if nano_cpus == 0 {
        return Ok(None);
    }
    let bad = |why| Err(Error::invalid("cpus", format!("{}", nano_cpus as f64 / 1e9).as_bytes(), why));
    if nano_cpus > u64::from(available) * BILLION {
        return bad("at most the number of CPUs of this machine");
    }
    let quota = nano_cpus / (BILLION / 100_000);
    if quota < 1000 {
        return bad("at least 0.01 CPU");
    }
    format!("{quota} 100000").parse().map(Some)
}

/// `--pids-limit`: 0 and below mean no limit.
pub fn pids_max(limit: i64) -> Limit<u32> {
    match u32::try_from(limit) {
        Ok(0) | Err(_) if limit <= 0 => Limit::Max,
        Ok(n) => Limit::At(n),
        Err(_) => Limit::Max,
    }
}

/// The least memory that Docker accepts.
pub const MIN_MEMORY: Bytes = Bytes::mib(6);

/// Docker's memory options, as its API has them: 0 is 'not set', -1 'no limit'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOptions {
    /// `--memory`, bytes.
    pub memory: i64,
    /// `--memory-swap`: memory and swap together, bytes. Not set, it is twice the memory; equal to it, no swap.
    pub memory_swap: i64,
    /// `--memory-reservation`, bytes.
    pub reservation: i64,
}

impl MemoryOptions {
    /// The settings of `memory.max`, `memory.swap.max` and `memory.low`.
    ///
    /// # Errors
    /// [`InvalidValue`](crate::ErrorKind::InvalidValue) for less than 6 MiB, swap without memory or below it, a reservation
    /// above the memory, or a negative number other than -1.
    pub fn limits(self) -> Result<Limits> {
        let MemoryOptions { memory, memory_swap, reservation } = self;
        let bad = |what, n: i64, why| Err(Error::invalid(what, n.to_string().as_bytes(), why));
        for (what, n) in
            [("memory", memory), ("memory-swap", memory_swap), ("memory-reservation", reservation)]
        {
            if n < -1 {
                return bad(what, n, "-1 for no limit, 0 for not set, or a number of bytes");
            }
        }
        if memory > 0 && memory < MIN_MEMORY.get() as i64 {
            return bad("memory", memory, "at least 6 MiB");
        }
        if memory_swap > 0 && memory <= 0 {
            return bad("memory-swap", memory_swap, "a limit of memory is to be given with it");
        }
        if memory_swap > 0 && memory_swap < memory {
            return bad("memory-swap", memory_swap, "memory and swap together: not less than the memory");
        }
        if reservation > 0 && reservation < MIN_MEMORY.get() as i64 {
            return bad("memory-reservation", reservation, "at least 6 MiB");
        }
        if memory > 0 && reservation > memory {
            return bad("memory-reservation", reservation, "not more than the memory");
        }
        let bytes = |n: i64| u64::try_from(n).map_or(Limit::Max, |n| Limit::At(Bytes::new(n)));
        let swap = match (memory, memory_swap) {
            (_, -1) | (-1, 0) => Some(Limit::Max),
            (0, _) => None,
            (m, 0) => Some(bytes(m)),
            (m, both) => Some(bytes(both - m)),
        };
        let mut limits = Limits::new();
        if memory != 0 {
            limits = limits.memory_max(bytes(memory));
        }
        if let Some(swap) = swap {
            limits = limits.memory_swap_max(swap);
        }
        if reservation != 0 {
            limits = limits.memory_low(bytes(reservation));
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_as_runc_has_them() {
        let table: [(u64, u16, u16); 13] = [
            (2, 1, 1),
            (3, 1, 2),
            (128, 5, 21),
            (256, 10, 35),
            (512, 20, 59),
            (1000, 39, 99),
            (1024, 39, 100),
            (2048, 79, 174),
            (4096, 157, 303),
            (8192, 313, 532),
            (65536, 2500, 3023),
            (262_143, 9999, 10_000),
            (262_144, 10_000, 10_000),
        ];
        for (shares, old, new) in table {
            assert_eq!(cpu_weight_linear(shares).map(Weight::get), Some(old), "old {shares}");
            assert_eq!(cpu_weight(shares).map(Weight::get), Some(new), "new {shares}");
        }
        assert_eq!((cpu_weight(0), cpu_weight_linear(0)), (None, None));
        assert_eq!((cpu_weight(1), cpu_weight_linear(1)), (Weight::new(1).ok(), Weight::new(1).ok()));
    }

    #[test]
    fn cpus_and_the_rest() {
        assert_eq!(cpu_max(750_000_000, 2).expect("fits").expect("set").to_string(), "75000 100000");
        assert_eq!(cpu_max(0, 2).expect("not set"), None);
        assert!(cpu_max(2_000_000_001, 2).is_err());
        assert!(cpu_max(9_999_999, 2).is_err());
        assert_eq!(cpu_max(10_000_000, 2).expect("least").expect("set").to_string(), "1000 100000");
        for (blkio, io) in [(10, 1), (500, 4950), (1000, 10_000), (5, 1), (2000, 10_000)] {
            assert_eq!(io_weight(blkio).map(Weight::get), Some(io), "{blkio}");
        }
        assert_eq!(io_weight(0), None);
        for (limit, max) in [(0, Limit::Max), (-1, Limit::Max), (100, Limit::At(100)), (i64::MAX, Limit::Max)]
        {
            assert_eq!(pids_max(limit), max);
        }
    }

    #[test]
    fn memory_and_swap() {
        const M: i64 = 1 << 20;
        let text = |memory, memory_swap, reservation| {
            MemoryOptions { memory, memory_swap, reservation }
                .limits()
                .map(|l| l.to_string().replace('\n', ";"))
        };
        let ok = |m, s, r| text(m, s, r).expect("valid");
        assert_eq!(ok(0, 0, 0), "");
        assert_eq!(ok(256 * M, 0, 0), "memory.swap.max = 268435456;memory.max = 268435456;");
        assert_eq!(ok(256 * M, 256 * M, 0), "memory.swap.max = 0;memory.max = 268435456;");
        assert_eq!(ok(256 * M, 300 * M, 0), "memory.swap.max = 46137344;memory.max = 268435456;");
        assert_eq!(ok(256 * M, -1, 0), "memory.swap.max = max;memory.max = 268435456;");
        assert_eq!(ok(-1, 0, 0), "memory.swap.max = max;memory.max = max;");
        assert_eq!(ok(0, -1, 0), "memory.swap.max = max;");
        assert_eq!(ok(0, 0, 64 * M), "memory.low = 67108864;");
        for (m, s, r) in [
            (6 * M - 1, 0, 0),
            (0, 300 * M, 0),
            (-1, 300 * M, 0),
            (256 * M, 255 * M, 0),
            (256 * M, 0, 257 * M),
            (0, 0, M),
            (-2, 0, 0),
        ] {
            assert!(text(m, s, r).is_err(), "{m} {s} {r}");
        }
    }

    proptest! {
        #[test]
        fn weights_grow_with_shares(a in 1u64..300_000, b in 1u64..300_000) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(cpu_weight(low) <= cpu_weight(high));
            prop_assert!(cpu_weight_linear(low) <= cpu_weight_linear(high));
        }

        #[test]
        fn any_memory_options_are_limits_or_an_error(memory: i64, memory_swap: i64, reservation: i64) {
            if let Ok(l) = (MemoryOptions { memory, memory_swap, reservation }).limits() {
                // Memory limited and swap forgotten would be a limit in name only.
                let names: Vec<&str> = l.iter().map(|(f, _)| f).collect();
                prop_assert!(!names.contains(&"memory.max") || names.contains(&"memory.swap.max"));
            }
        }
    }
}
