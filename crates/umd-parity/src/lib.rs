//! XOR, P+Q and GF(2^8) recovery with SIMD dispatch.
