//! Every operation with every kernel this CPU has, against the reference.

mod common;

use common::{Slot, columns, each_kernel, gf_mul, gf_pow, noise, reference_pq};
use umd_parity::{
    Kernel, KernelError, copy_past_cache, force, gf, kernel, mul, mul_xor, p_only, pq, pq_delta,
    q_only, xor_into, xor_many,
};

/// Every remainder of every block and vector, then whole pages and chunks.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=300).chain([4096, 4096 + 77, 65536])
}

#[test]
fn sums_of_one_to_ten_columns_at_every_length() {
    each_kernel(|kernel| {
        for k in 1..=10 {
            for len in lengths() {
                let skew = |i: usize| (i * 13 + len * 7) * usize::from(len % 3 != 0);
                let data: Vec<Slot> = (0..k)
                    .map(|i| Slot::new(&noise((len * 16 + i) as u64, len), skew(i)))
                    .collect();
                let mut row = columns(&data);
                check_sums(kernel, &row, len, skew(k));
                row[(len + k) % k] = None;
                check_sums(kernel, &row, len, skew(k + 1));
            }
        }
    });
}

#[track_caller]
fn check_sums(kernel: Kernel, row: &[Option<&[u8]>], len: usize, skew: usize) {
    let what = format!("{kernel}, {} columns of {len}", row.len());
    let (p_expected, q_expected) = reference_pq(row, len);
    let (mut p, mut q) = (Slot::scratch(len, skew), Slot::scratch(len, skew + 1));
    pq(p.get_mut(), q.get_mut(), row);
    p.expect(&p_expected, &format!("P of pq, {what}"));
    q.expect(&q_expected, &format!("Q of pq, {what}"));
    let mut p = Slot::scratch(len, skew + 2);
    p_only(p.get_mut(), row);
    p.expect(&p_expected, &format!("p_only, {what}"));
    let mut q = Slot::scratch(len, skew + 3);
    q_only(q.get_mut(), row);
    q.expect(&q_expected, &format!("q_only, {what}"));
    let present: Vec<&[u8]> = row.iter().copied().flatten().collect();
    let mut sum = Slot::scratch(len, skew + 5);
    xor_many(sum.get_mut(), &present);
    sum.expect(&p_expected, &format!("xor_many, {what}"));
}

#[test]
fn copies_past_the_cache_are_whole_and_touch_nothing_else() {
    each_kernel(|kernel| {
        for len in lengths() {
            for skew in [0, 1, 63, 64] {
                let from = noise((len + skew) as u64, len);
                let mut to = Slot::scratch(len, skew);
                copy_past_cache(to.get_mut(), &from);
                to.expect(&from, &format!("{kernel}, {len} bytes, {skew} off"));
            }
        }
    });
}

#[test]
#[should_panic(expected = "3 bytes to copy, room for 4")]
fn a_copy_of_another_length_is_refused() {
    copy_past_cache(&mut [0; 4], &[0; 3]);
}

#[test]
fn as_many_columns_as_q_can_tell_apart() {
    let len = 333;
    let data: Vec<Vec<u8>> = (0..255).map(|i| noise(i, len)).collect();
    let full: Vec<Option<&[u8]>> = data.iter().map(|d| Some(&d[..])).collect();
    let mut sparse = full.clone();
    for i in [0, 1, 7, 8, 100, 253, 254] {
        sparse[i] = None;
    }
    each_kernel(|kernel| {
        check_sums(kernel, &full, len, 0);
        check_sums(kernel, &sparse, len, 31);
    });
}

#[test]
fn sums_of_nothing_are_zero() {
    each_kernel(|kernel| {
        for row in [&[][..], &[None; 1], &[None; 9]] {
            check_sums(kernel, row, 200, 3);
        }
    });
}

/// Rows of real arrays: all data 0x54, five disks.
#[test]
fn q_of_real_rows() {
    let data = [0x54u8; 512];
    let d = Some(&data[..]);
    each_kernel(|kernel| {
        for (row, p_byte, q_byte) in [
            (&[d, d, d][..], 0x54, 0xb1),
            (&[d, d, None, None, d], 0x54, 0xd5),
            (&[d, None, None, d, d], 0x54, 0xe7),
        ] {
            let (mut p, mut q) = (vec![0; 512], vec![0; 512]);
            pq(&mut p, &mut q, row);
            assert!(
                p.iter().all(|byte| *byte == p_byte),
                "{kernel}: P {:#x}",
                p[0]
            );
            assert!(
                q.iter().all(|byte| *byte == q_byte),
                "{kernel}: Q {:#x}",
                q[0]
            );
        }
    });
}

/// Every factor times every byte, in vectors and in the tail.
#[test]
fn multiplication_by_every_factor() {
    let bytes: Vec<u8> = (0..=255).chain(0..=255).chain(0..29).collect();
    let before = noise(5, bytes.len());
    each_kernel(|kernel| {
        for factor in 0..=255u8 {
            let product: Vec<u8> = bytes.iter().map(|byte| gf_mul(*byte, factor)).collect();
            let mut scaled = Slot::new(&bytes, usize::from(factor));
            mul(scaled.get_mut(), factor);
            scaled.expect(&product, &format!("{kernel}: mul by {factor:#x}"));

            let sum: Vec<u8> = before.iter().zip(&product).map(|(a, b)| a ^ b).collect();
            let mut added = Slot::new(&before, usize::from(factor / 2));
            mul_xor(added.get_mut(), &bytes, factor);
            added.expect(&sum, &format!("{kernel}: mul_xor by {factor:#x}"));
        }
    });
}

#[test]
fn in_place_operations_at_every_length() {
    each_kernel(|kernel| {
        for len in lengths() {
            let what = format!("{kernel}, {len} bytes");
            let (dst, src) = (noise(1, len), Slot::new(&noise(2, len), len * 3));
            let map = |f: &dyn Fn(u8, u8) -> u8| -> Vec<u8> {
                dst.iter().zip(src.get()).map(|(a, b)| f(*a, *b)).collect()
            };
            let mut slot = Slot::new(&dst, len * 5);
            xor_into(slot.get_mut(), src.get());
            slot.expect(&map(&|a, b| a ^ b), &format!("xor_into, {what}"));

            let mut slot = Slot::new(&dst, len * 7);
            mul_xor(slot.get_mut(), src.get(), 0xca);
            slot.expect(
                &map(&|a, b| a ^ gf_mul(b, 0xca)),
                &format!("mul_xor, {what}"),
            );

            let mut slot = Slot::new(&dst, len * 11);
            mul(slot.get_mut(), 0x53);
            slot.expect(&map(&|a, _| gf_mul(a, 0x53)), &format!("mul, {what}"));

            check_delta(&what, &dst, src.get(), len % 255);
        }
    });
}

#[test]
fn delta_at_every_position() {
    let (old, new) = (noise(11, 333), noise(12, 333));
    each_kernel(|kernel| {
        for idx in 0..255 {
            check_delta(&format!("{kernel}, position {idx}"), &old, &new, idx);
        }
    });
}

/// All four combinations of P and Q being there.
#[track_caller]
fn check_delta(what: &str, old: &[u8], new: &[u8], idx: usize) {
    let len = old.len();
    let (p_before, q_before) = (noise(21, len), noise(22, len));
    let weight = gf_pow(idx);
    let change = || old.iter().zip(new).map(|(old, new)| old ^ new);
    let p_after: Vec<u8> = p_before.iter().zip(change()).map(|(p, c)| p ^ c).collect();
    let q_after: Vec<u8> = q_before
        .iter()
        .zip(change())
        .map(|(q, c)| q ^ gf_mul(c, weight))
        .collect();
    for (with_p, with_q) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut p, mut q) = (
            Slot::new(&p_before, len * 3 + 1),
            Slot::new(&q_before, len * 3),
        );
        pq_delta(
            with_p.then_some(p.get_mut()),
            with_q.then_some(q.get_mut()),
            idx as u8,
            old,
            new,
        );
        p.expect(
            if with_p { &p_after } else { &p_before },
            &format!("P after delta, {what}"),
        );
        q.expect(
            if with_q { &q_after } else { &q_before },
            &format!("Q after delta, {what}"),
        );
    }
}

#[test]
fn names_of_kernels() {
    for kernel in Kernel::ALL {
        assert_eq!(kernel.name().parse(), Ok(kernel));
    }
    let error = "gfni1024".parse::<Kernel>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "no parity kernel is called \"gfni1024\"; known: scalar ssse3 avx2 gfni256 gfni512"
    );
}

#[test]
fn a_kernel_that_cannot_run_is_refused() {
    each_kernel(|forced| {
        for unavailable in Kernel::ALL
            .into_iter()
            .filter(|kernel| !kernel.is_available())
        {
            assert_eq!(
                force(unavailable),
                Err(KernelError::Unavailable(unavailable))
            );
            assert_eq!(kernel(), forced);
        }
    });
    let error = KernelError::Unavailable(Kernel::Gfni512).to_string();
    assert!(
        error.starts_with("parity kernel gfni512 needs instructions"),
        "{error}"
    );
    assert!(error.contains("have: scalar"), "{error}");
}

#[test]
#[should_panic(expected = "data column 1 is 511 bytes long, the rest 512")]
fn columns_of_unequal_length() {
    pq(
        &mut [0; 512],
        &mut [0; 512],
        &[Some(&[0; 512]), Some(&[0; 511])],
    );
}

#[test]
#[should_panic(expected = "Q is 513 bytes long, the rest 512")]
fn parity_of_unequal_length() {
    pq(
        &mut [0; 512],
        &mut [0; 513],
        &[Some(&[0; 512]), Some(&[0; 512])],
    );
}

#[test]
#[should_panic(expected = "data column 0 is 3 bytes long, the rest 4")]
fn xor_of_unequal_length() {
    xor_into(&mut [0; 4], &[0; 3]);
}

#[test]
#[should_panic(expected = "Q is 8 bytes long, the rest 16")]
fn delta_of_unequal_length() {
    pq_delta(Some(&mut [0; 16]), Some(&mut [0; 8]), 0, &[0; 16], &[0; 16]);
}

#[test]
#[should_panic(expected = "old and new differ in length")]
fn delta_of_unequal_length_without_parity() {
    pq_delta(None, None, 0, &[0; 16], &[0; 15]);
}

#[test]
#[should_panic(expected = "no data column has position 255")]
fn delta_at_an_impossible_position() {
    pq_delta(Some(&mut [0; 16]), None, 255, &[0; 16], &[0; 16]);
}

#[test]
#[should_panic(expected = "256 data columns, Q can tell 255 apart")]
fn too_many_columns_for_q() {
    q_only(&mut [0; 1], &[None; gf::COLUMNS_MAX + 1]);
}

/// P alone has no such limit.
#[test]
fn more_columns_than_q_could_tell_apart() {
    let data = [Some(&[1u8, 2, 3][..]); 301];
    let mut p = [0; 3];
    p_only(&mut p, &data);
    assert_eq!(p, [1, 2, 3]);
}
