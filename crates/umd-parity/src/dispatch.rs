//! Which kernel runs: the widest this CPU has, found once; or the one a caller forces.
//!
//! | kernel    | instructions   | found on                                            |
//! |-----------|----------------|-----------------------------------------------------|
//! | `scalar`  | none special   | everything                                          |
//! | `ssse3`   | SSSE3          | x86-64 since about 2006; small storage boxes longer |
//! | `avx2`    | AVX2           | x86-64 since about 2013                             |
//! | `gfni256` | AVX2, GFNI     | Intel desktops and small servers without AVX-512    |
//! | `gfni512` | AVX-512F, GFNI | Intel servers since Ice Lake, AMD since Zen 4       |
//!
//! All kernels give the same bytes; forcing one is for measuring and testing. The environment is
//! never read here: a program that wants a variable for it reads the variable itself.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::walk::{Columns, Finish, walk};
#[cfg(target_arch = "x86_64")]
use crate::x86;

/// A set of instructions the arithmetic can be done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kernel {
    /// 64-bit words, no special instructions.
    Scalar = 1,
    /// SSSE3: as AVX2, with half the width.
    Ssse3 = 2,
    /// AVX2: doubling by comparison, multiplication by nibble shuffles.
    Avx2 = 3,
    /// AVX2 with GFNI affine transformations.
    Gfni256 = 4,
    /// AVX-512 with GFNI affine transformations.
    Gfni512 = 5,
}

/// The kernel in use; 0 until the first call needs one.
///
/// Invariant: never holds a kernel this CPU cannot run. `kernel` and `force` are the only writers.
static IN_USE: AtomicU8 = AtomicU8::new(0);

impl Kernel {
    /// Every kernel, slowest first.
    pub const ALL: [Self; 5] = [
        Self::Scalar,
        Self::Ssse3,
        Self::Avx2,
        Self::Gfni256,
        Self::Gfni512,
    ];

    /// Whether this CPU (and its operating system) can run the kernel.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Self::Scalar => true,
            Self::Ssse3 => is_x86_feature_detected!("ssse3"),
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::Gfni256 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni"),
            Self::Gfni512 => {
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("gfni")
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Self::Scalar;
    }

    /// The name `FromStr` takes: `scalar`, `ssse3`, `avx2`, `gfni256` or `gfni512`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Ssse3 => "ssse3",
            Self::Avx2 => "avx2",
            Self::Gfni256 => "gfni256",
            Self::Gfni512 => "gfni512",
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kernel| *kernel as u8 == code)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a kernel could not be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// This CPU lacks the kernel's instructions.
    Unavailable(Kernel),
    /// No kernel has this name.
    UnknownName(String),
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(kernel) => {
                write!(
                    f,
                    "parity kernel {kernel} needs instructions this CPU does not have; have:"
                )?;
                for kernel in Kernel::ALL
                    .into_iter()
                    .filter(|kernel| kernel.is_available())
                {
                    write!(f, " {kernel}")?;
                }
                Ok(())
            }
            Self::UnknownName(name) => {
                write!(f, "no parity kernel is called {name:?}; known:")?;
                Kernel::ALL
                    .into_iter()
                    .try_for_each(|kernel| write!(f, " {kernel}"))
            }
        }
    }
}

impl std::error::Error for KernelError {}

impl FromStr for Kernel {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Self::ALL
            .into_iter()
            .find(|kernel| kernel.name() == name)
            .ok_or_else(|| KernelError::UnknownName(name.to_owned()))
    }
}

/// The kernel in use: the forced one, else the fastest available.
pub fn kernel() -> Kernel {
    Kernel::from_code(IN_USE.load(Ordering::Relaxed)).unwrap_or_else(detect)
}

#[cold]
fn detect() -> Kernel {
    let best = Kernel::ALL
        .into_iter()
        .rfind(|kernel| kernel.is_available())
        .expect("the scalar kernel is always available");
    // A kernel forced meanwhile by another thread stays.
    match IN_USE.compare_exchange(0, best as u8, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => best,
        Err(forced) => Kernel::from_code(forced).expect("only codes of kernels are stored"),
    }
}

/// Makes every later call in this process use `kernel`. Results do not change, only speed.
///
/// # Errors
/// [`KernelError::Unavailable`] if this CPU cannot run it; the kernel in use stays as it was.
pub fn force(kernel: Kernel) -> Result<(), KernelError> {
    if !kernel.is_available() {
        return Err(KernelError::Unavailable(kernel));
    }
    IN_USE.store(kernel as u8, Ordering::Relaxed);
    Ok(())
}

/// Walks the columns with the kernel in use and gives `finish` the sums; see [`walk`].
///
/// # Panics
/// If a column or a slice of `finish` is not `len` bytes long.
#[inline]
pub(crate) fn run<C: Columns, F: Finish>(len: usize, columns: C, finish: F) {
    columns.check(len);
    finish.check(len);
    // SAFETY: all slices are `len` bytes (just checked), and `kernel` only ever answers one whose
    // instructions this CPU has.
    unsafe {
        match kernel() {
            Kernel::Scalar => walk_scalar(len, columns, finish),
            #[cfg(target_arch = "x86_64")]
            Kernel::Ssse3 => walk_ssse3(len, columns, finish),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => walk_avx2(len, columns, finish),
            #[cfg(target_arch = "x86_64")]
            Kernel::Gfni256 => walk_gfni256(len, columns, finish),
            #[cfg(target_arch = "x86_64")]
            Kernel::Gfni512 => walk_gfni512(len, columns, finish),
            #[cfg(not(target_arch = "x86_64"))]
            other => unreachable!("parity kernel {other} was chosen where it is not available"),
        }
    }
}

/// # Safety
/// As [`walk`].
#[inline(never)]
unsafe fn walk_scalar<C: Columns, F: Finish>(len: usize, columns: C, finish: F) {
    // SAFETY: passed on to the caller; plain words need no special instructions.
    unsafe { walk::<crate::vector::Swar, C, F>(len, columns, finish) }
}

/// # Safety
/// As [`walk`], and the CPU has SSSE3.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "ssse3")]
unsafe fn walk_ssse3<C: Columns, F: Finish>(len: usize, columns: C, finish: F) {
    // SAFETY: passed on to the caller.
    unsafe { walk::<x86::Ssse3, C, F>(len, columns, finish) }
}

/// # Safety
/// As [`walk`], and the CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn walk_avx2<C: Columns, F: Finish>(len: usize, columns: C, finish: F) {
    // SAFETY: passed on to the caller.
    unsafe { walk::<x86::Avx2, C, F>(len, columns, finish) }
}

/// # Safety
/// As [`walk`], and the CPU has AVX2 and GFNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,gfni")]
unsafe fn walk_gfni256<C: Columns, F: Finish>(len: usize, columns: C, finish: F) {
    // SAFETY: passed on to the caller.
    unsafe { walk::<x86::Gfni256, C, F>(len, columns, finish) }
}

/// # Safety
/// As [`walk`], and the CPU has AVX-512F and GFNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,gfni")]
unsafe fn walk_gfni512<C: Columns, F: Finish>(len: usize, columns: C, finish: F) {
    // SAFETY: passed on to the caller.
    unsafe { walk::<x86::Gfni512, C, F>(len, columns, finish) }
}
