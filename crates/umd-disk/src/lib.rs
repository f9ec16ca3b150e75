//! Members behind one small batch trait.
