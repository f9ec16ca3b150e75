//! The weighbridge: kernel md, mdadm, GRUB and NBD clients as oracles.
