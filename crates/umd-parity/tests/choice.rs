//! Which kernel is chosen when nobody forces one. A program of its own, with one test: the choice
//! is made once per process.

use umd_parity::{Kernel, force, kernel, xor_into};

/// What the operating system says the CPU has.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn fastest() -> Kernel {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").expect("Linux has /proc/cpuinfo");
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .expect("x86 has flags");
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    match () {
        () if has("avx512f") && has("gfni") => Kernel::Gfni512,
        () if has("avx2") && has("gfni") => Kernel::Gfni256,
        () if has("avx2") => Kernel::Avx2,
        () if has("ssse3") => Kernel::Ssse3,
        () => Kernel::Scalar,
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn fastest() -> Kernel {
    Kernel::ALL
        .into_iter()
        .rfind(|kernel| kernel.is_available())
        .expect("scalar is")
}

#[test]
fn the_fastest_is_chosen_and_a_forced_one_stays() {
    let mut dst = [1; 100];
    xor_into(&mut dst, &[3; 100]);
    assert_eq!(dst, [2; 100]);
    assert_eq!(kernel(), fastest());
    force(Kernel::Scalar).expect("runs everywhere");
    xor_into(&mut dst, &[3; 100]);
    assert_eq!(dst, [1; 100]);
    assert_eq!(kernel(), Kernel::Scalar);
}
