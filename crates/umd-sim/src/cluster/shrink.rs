//! Which items of a plan a failure needs: halves, quarters, single ones are left out, as long as
//! the same rule is broken. What is left keeps its time.

use super::{Make, Plan, run};
use crate::monitor::Violation;
use crate::run::Show;

/// What is left of a plan.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// The numbers that its items have in the plan it was made of.
    pub kept: Vec<usize>,
    /// What it breaks.
    pub violation: Violation,
    /// Runs that it took.
    pub runs: usize,
}

/// Leaves out what a failing plan does not need, in so many runs at most; `None`: it does not fail.
pub fn shrink(plan: &Plan, make: Make, most: usize) -> Option<Shrunk> {
    let violation = run(plan.clone(), make, Show::Hash).violation?;
    let mut best = Shrunk {
        plan: plan.clone(),
        kept: (0..plan.items.len()).collect(),
        violation,
        runs: 1,
    };
    let mut piece = best.kept.len().div_ceil(2);
    while piece > 0 && best.runs < most {
        let mut at = 0;
        let mut smaller = false;
        while at < best.kept.len() && best.runs < most {
            let mut kept = best.kept.clone();
            kept.drain(at..(at + piece).min(kept.len()));
            let candidate = plan.only(&kept);
            best.runs += 1;
            match run(candidate.clone(), make, Show::Hash).violation {
                Some(violation) if violation.rule == best.violation.rule => {
                    (best.plan, best.kept, best.violation) = (candidate, kept, violation);
                    smaller = true;
                }
                _ => at += piece,
            }
        }
        if !smaller || piece > 1 {
            piece /= 2;
        }
    }
    Some(best)
}

impl Plan {
    /// The same with these items only.
    #[must_use]
    pub fn only(&self, kept: &[usize]) -> Plan {
        let items = kept.iter().filter_map(|index| self.items.get(*index));
        Plan {
            items: items.cloned().collect(),
            ..self.clone()
        }
    }
}
