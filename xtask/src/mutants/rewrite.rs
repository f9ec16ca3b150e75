//! Source with all changes in it, each behind its number.
//!
//! ```text
//!   a - b      (if on(7) { a + b } else if on(8) { a / b } else { a - b })
//!              `--- pieces: source as it was, changed ---'       `- changes of a and b go here
//!   { body     { if on(9) { return 0; } body
//!   P => x     P if !on(10) => x
//! ```
//!
//! All is done by putting text between the tokens: what is put in around a larger piece of source
//! stands outside of what is put in around its parts. Only one change is ever on, so what is on
//! needs no other changes in it, and the text grows no faster than its depth. Where the text of
//! each change has come to lie is kept, so that an error of the compiler can be traced to it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::list::{Genre, Mutant, Place};
use super::museum::{self, Names, decided};

const ON: &str = "crate::mutagen::on";

/// Text of one or more changes, where it lies in the new source.
#[derive(Debug)]
pub struct Piece {
    pub at: Range<usize>,
    pub mutants: Vec<u32>,
}

/// A file with all its changes.
#[derive(Debug, Default)]
pub struct Rewritten {
    pub text: String,
    pub pieces: Vec<Piece>,
    /// Those that were put in.
    pub placed: HashSet<u32>,
}

/// What is put before and behind a range of the source.
struct Edit {
    at: Range<usize>,
    /// Text, and the change it belongs to if it is one's alone.
    before: Vec<(String, Option<u32>)>,
    after: &'static str,
    mutants: Vec<u32>,
}

/// Puts the `mutants` of a file in its source, except those that are `off`.
pub fn rewrite(source: &str, mutants: &[&Mutant], off: &HashSet<u32>) -> Result<Rewritten> {
    let file = syn::parse_file(source).context("no Rust")?;
    let mut finder = Finder {
        source,
        lines: line_starts(source),
        wanted: HashMap::new(),
        constant: 0,
        names: Names::new(),
        edits: Vec::new(),
    };
    for mutant in mutants
        .iter()
        .filter(|mutant| !off.contains(&mutant.number))
    {
        let key = (mutant.genre, mutant.from);
        finder.wanted.entry(key).or_default().push(mutant);
    }
    finder.visit_file(&file);
    Ok(render(source, finder.edits))
}

fn line_starts(source: &str) -> Vec<usize> {
    let ends = source
        .bytes()
        .enumerate()
        .filter(|(_, byte)| *byte == b'\n');
    std::iter::once(0)
        .chain(ends.map(|(at, _)| at + 1))
        .collect()
}

/// Puts the text in. A larger edit is outside of a smaller one; of two as large, the first.
fn render(source: &str, mut edits: Vec<Edit>) -> Rewritten {
    edits.sort_by_key(|edit| (edit.at.start, std::cmp::Reverse(edit.at.end)));
    let mut out = Rewritten::default();
    // What has begun and not ended: where it began in the new text.
    let mut open: Vec<(&Edit, usize)> = Vec::new();
    let mut at = 0;
    for edit in &edits {
        close(source, &mut out, &mut open, &mut at, edit.at.start);
        out.text.push_str(&source[at..edit.at.start]);
        at = edit.at.start;
        open.push((edit, out.text.len()));
        for (text, mutant) in &edit.before {
            let start = out.text.len();
            out.text.push_str(text);
            let mutants = mutant.iter().copied().collect();
            let at = start..out.text.len();
            out.pieces.push(Piece { at, mutants });
        }
        out.placed.extend(&edit.mutants);
    }
    close(source, &mut out, &mut open, &mut at, source.len());
    out.text.push_str(&source[at..]);
    out.pieces.retain(|piece| !piece.mutants.is_empty());
    out
}

/// Ends what ends before `until`, or there.
fn close(
    source: &str,
    out: &mut Rewritten,
    open: &mut Vec<(&Edit, usize)>,
    at: &mut usize,
    until: usize,
) {
    while let Some((edit, began)) = open.pop_if(|(edit, _)| edit.at.end <= until) {
        out.text.push_str(&source[*at..edit.at.end]);
        *at = edit.at.end;
        out.text.push_str(edit.after);
        let at = began..out.text.len();
        let mutants = edit.mutants.clone();
        out.pieces.push(Piece { at, mutants });
    }
}

struct Finder<'a> {
    source: &'a str,
    lines: Vec<usize>,
    wanted: HashMap<(Genre, Place), Vec<&'a Mutant>>,
    /// How many things around must be known to the compiler, so that nothing can be asked there, or
    /// count only with a switch of the museum.
    constant: u32,
    /// What of a function is known as long as no such switch is on.
    names: Names,
    edits: Vec<Edit>,
}

impl<'a> Finder<'a> {
    fn offset(&self, place: proc_macro2::LineColumn) -> usize {
        // Sources are ASCII, so that columns are bytes.
        self.lines[place.line - 1] + place.column
    }

    fn range(&self, node: &impl Spanned) -> Range<usize> {
        let span = node.span();
        self.offset(span.start())..self.offset(span.end())
    }

    /// The changes of this kind that begin here.
    fn take(&mut self, genre: Genre, node: &impl Spanned) -> Vec<&'a Mutant> {
        if self.constant > 0 {
            return Vec::new();
        }
        self.wanted.remove(&key(genre, node)).unwrap_or_default()
    }

    /// An expression that is another one for each change.
    fn choose(&mut self, at: Range<usize>, choices: &[(String, &Mutant)]) {
        if choices.is_empty() {
            return;
        }
        let mut before = vec![("(".to_owned(), None)];
        for (text, mutant) in choices {
            before.push((format!("if {ON}({}) {{ ", mutant.number), None));
            before.push((text.clone(), Some(mutant.number)));
            before.push((" } else ".to_owned(), None));
        }
        before.push(("{ ".to_owned(), None));
        let mutants = choices.iter().map(|(_, mutant)| mutant.number).collect();
        let after = " })";
        self.edits.push(Edit {
            at,
            before,
            after,
            mutants,
        });
    }

    fn body(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let Some(first) = block.stmts.first() else {
            return;
        };
        // `-> impl Trait` is one type, and what would be returned early is another.
        let output = &self.source[self.range(&signature.output)];
        if output.contains("impl ") {
            return;
        }
        let mutants = self.take(Genre::FnValue, first);
        if mutants.is_empty() {
            return;
        }
        let at = self.offset(block.brace_token.span.open().end());
        let mut before = Vec::new();
        for mutant in &mutants {
            before.push((format!(" if {ON}({}) {{ return ", mutant.number), None));
            before.push((mutant.replacement.clone(), Some(mutant.number)));
            before.push(("; }".to_owned(), None));
        }
        self.edits.push(Edit {
            at: at..at,
            before,
            after: "",
            mutants: mutants.iter().map(|mutant| mutant.number).collect(),
        });
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) -> bool {
        self.names.clear();
        let constant = signature.constness.is_some();
        self.constant += u32::from(constant);
        self.body(signature, block);
        constant
    }

    fn constantly(&mut self, inside: impl FnOnce(&mut Self)) {
        self.unless(true, inside);
    }

    /// Looks at what nothing can be asked in, if so.
    fn unless(&mut self, so: bool, inside: impl FnOnce(&mut Self)) {
        self.constant += u32::from(so);
        inside(self);
        self.constant -= u32::from(so);
    }
}

/// What begins at a node is found by.
fn key(genre: Genre, node: &impl Spanned) -> (Genre, Place) {
    let start = node.span().start();
    (genre, (start.line, start.column + 1))
}

/// What a pattern of a condition says.
fn says(pat: &syn::Pat) -> Option<bool> {
    match pat {
        syn::Pat::Lit(lit) => match &lit.lit {
            syn::Lit::Bool(is) => Some(is.value),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a chain of conditions binds something.
fn binds(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(both) => binds(&both.left) || binds(&both.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        let constant = self.function(&node.sig, &node.block);
        visit::visit_item_fn(self, node);
        self.constant -= u32::from(constant);
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        let constant = self.function(&node.sig, &node.block);
        visit::visit_impl_item_fn(self, node);
        self.constant -= u32::from(constant);
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        let body = node.default.as_ref();
        let constant = body.is_some_and(|body| self.function(&node.sig, body));
        visit::visit_trait_item_fn(self, node);
        self.constant -= u32::from(constant);
    }

    fn visit_item_const(&mut self, node: &'ast syn::ItemConst) {
        self.constantly(|finder| visit::visit_item_const(finder, node));
    }

    fn visit_item_static(&mut self, node: &'ast syn::ItemStatic) {
        self.constantly(|finder| visit::visit_item_static(finder, node));
    }

    fn visit_impl_item_const(&mut self, node: &'ast syn::ImplItemConst) {
        self.constantly(|finder| visit::visit_impl_item_const(finder, node));
    }

    fn visit_trait_item_const(&mut self, node: &'ast syn::TraitItemConst) {
        self.constantly(|finder| visit::visit_trait_item_const(finder, node));
    }

    fn visit_variant(&mut self, node: &'ast syn::Variant) {
        self.constantly(|finder| visit::visit_variant(finder, node));
    }

    fn visit_type(&mut self, node: &'ast syn::Type) {
        self.constantly(|finder| visit::visit_type(finder, node));
    }

    fn visit_pat(&mut self, node: &'ast syn::Pat) {
        self.constantly(|finder| visit::visit_pat(finder, node));
    }

    fn visit_generic_argument(&mut self, node: &'ast syn::GenericArgument) {
        self.constantly(|finder| visit::visit_generic_argument(finder, node));
    }

    fn visit_expr_const(&mut self, node: &'ast syn::ExprConst) {
        self.constantly(|finder| visit::visit_expr_const(finder, node));
    }

    fn visit_expr_repeat(&mut self, node: &'ast syn::ExprRepeat) {
        self.visit_expr(&node.expr);
        self.constantly(|finder| finder.visit_expr(&node.len));
    }

    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        // Where one side decides, the other is not looked at, or need not be; where both say the
        // same, `&&` and `||` do.
        let decider = museum::decider(&node.op);
        let side = |side| decided(side, &self.names).filter(|_| decider.is_some());
        let (left, right) = (side(&node.left), side(&node.right));
        let mut mutants = self.take(Genre::Binary, &node.op);
        if left.is_some() && left == right {
            mutants.clear();
        }
        if !binds(&node.left) && !binds(&node.right) {
            let (all, op) = (self.range(node), self.range(&node.op));
            let (left, right) = (
                &self.source[all.start..op.start],
                &self.source[op.end..all.end],
            );
            let choice = |m: &&'_ Mutant| format!("{left}{}{right}", m.replacement);
            let choices: Vec<_> = mutants.iter().map(|m| (choice(m), *m)).collect();
            self.choose(all, &choices);
        }
        let decides = |side: Option<bool>| side.is_some() && side == decider;
        self.unless(decides(right), |finder| finder.visit_expr(&node.left));
        self.unless(decides(left), |finder| finder.visit_expr(&node.right));
    }

    fn visit_local(&mut self, node: &'ast syn::Local) {
        let odd = museum::is_inside(&node.attrs);
        self.unless(odd, |finder| visit::visit_local(finder, node));
        if let (syn::Pat::Ident(name), Some(init)) = (&node.pat, &node.init) {
            let name = name.ident.to_string();
            match decided(&init.expr, &self.names) {
                Some(is) => self.names.insert(name, is),
                None => self.names.remove(&name),
            };
        }
    }

    fn visit_block(&mut self, node: &'ast syn::Block) {
        let mut left = false;
        for stmt in &node.stmts {
            self.unless(left, |finder| finder.visit_stmt(stmt));
            left |= museum::leaves(stmt, &self.names);
        }
    }

    fn visit_expr_if(&mut self, node: &'ast syn::ExprIf) {
        self.visit_expr(&node.cond);
        let is = decided(&node.cond, &self.names);
        self.unless(is == Some(false), |finder| {
            finder.visit_block(&node.then_branch)
        });
        if let Some((_, other)) = &node.else_branch {
            self.unless(is == Some(true), |finder| finder.visit_expr(other));
        }
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        let mutants = self.take(Genre::Unary, &node.op);
        let operand = self.source[self.range(&node.expr)].to_owned();
        let choices: Vec<_> = mutants.iter().map(|m| (operand.clone(), *m)).collect();
        let all = self.range(node);
        self.choose(all, &choices);
        visit::visit_expr_unary(self, node);
    }

    fn visit_expr_match(&mut self, node: &'ast syn::ExprMatch) {
        // That a value has no arm is said of what is matched, not of the arms.
        let is = decided(&node.expr, &self.names);
        if is.is_some() {
            self.visit_expr(&node.expr);
            for arm in &node.arms {
                let other = is.is_some() && says(&arm.pat).is_some_and(|it| Some(it) != is);
                self.unless(other, |finder| finder.visit_arm(arm));
            }
            return;
        }
        let arms = node
            .arms
            .iter()
            .filter_map(|arm| self.wanted.get(&key(Genre::Arm, arm)));
        let mutants: Vec<u32> = arms.flatten().map(|mutant| mutant.number).collect();
        if self.constant > 0 || mutants.is_empty() {
            return visit::visit_expr_match(self, node);
        }
        self.edits.push(Edit {
            at: self.range(&node.expr),
            before: Vec::new(),
            after: "",
            mutants,
        });
        visit::visit_expr_match(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        let guard = node.guard.as_ref();
        let never = guard.is_some_and(|(_, guard)| decided(guard, &self.names) == Some(false));
        if never && let Some((_, guard)) = guard {
            self.visit_expr(guard);
            return self.constantly(|finder| finder.visit_expr(&node.body));
        }
        let mutants = self.take(Genre::Arm, node);
        if let Some(gone) = mutants.first() {
            let (at, before, after) = match &node.guard {
                None => {
                    let end = self.range(&node.pat).end;
                    (end..end, format!(" if !{ON}({})", gone.number), "")
                }
                Some((_, guard)) => {
                    let before = format!("!{ON}({}) && (", gone.number);
                    (self.range(guard), before, ")")
                }
            };
            self.edits.push(Edit {
                at,
                before: vec![(before, Some(gone.number))],
                after,
                mutants: vec![gone.number],
            });
        }
        if let Some((_, guard)) = &node.guard {
            let mutants = self.take(Genre::Guard, guard);
            let choice = |m: &'_ Mutant| m.replacement.clone();
            let choices: Vec<_> = mutants.iter().map(|m| (choice(m), *m)).collect();
            let at = self.range(guard);
            self.choose(at, &choices);
        }
        visit::visit_arm(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'ast syn::ExprStruct) {
        for field in &node.fields {
            let mutants = self.take(Genre::Field, field);
            let (Some(gone), Some(base)) = (mutants.first(), &node.rest) else {
                continue;
            };
            let syn::Member::Named(name) = &field.member else {
                continue;
            };
            let base = &self.source[self.range(base)];
            let other = format!("({base}).{name}");
            let value = self.range(&field.expr);
            if field.colon_token.is_some() {
                self.choose(value, &[(other, gone)]);
                continue;
            }
            let text = format!(": if {ON}({}) {{ {other} }} else {{ {name} }}", gone.number);
            self.edits.push(Edit {
                at: value.end..value.end,
                before: vec![(text, Some(gone.number))],
                after: "",
                mutants: vec![gone.number],
            });
        }
        visit::visit_expr_struct(self, node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(number: u32, genre: Genre, from: Place, replacement: &str) -> Mutant {
        Mutant {
            number,
            name: String::new(),
            key: String::new(),
            file: String::new(),
            genre,
            from,
            replacement: replacement.to_owned(),
        }
    }

    fn text(source: &str, mutants: &[Mutant]) -> String {
        let mutants: Vec<&Mutant> = mutants.iter().collect();
        let done = rewrite(source, &mutants, &HashSet::new()).unwrap();
        assert_eq!(done.placed.len(), mutants.len());
        for piece in &done.pieces {
            assert!(piece.at.end <= done.text.len());
        }
        done.text.replace(ON, "on")
    }

    #[test]
    fn operators_nest() {
        let source = "fn f(a: u8) -> u8 {\n    a + 1 * 2\n}\n";
        let mutants = [
            mutant(1, Genre::Binary, (2, 7), "-"),
            mutant(2, Genre::Binary, (2, 11), "/"),
            mutant(3, Genre::FnValue, (2, 5), "0"),
        ];
        let wanted = "fn f(a: u8) -> u8 { if on(3) { return 0; }\n    \
            (if on(1) { a - 1 * 2 } else { a + (if on(2) { 1 / 2 } else { 1 * 2 }) })\n}\n";
        assert_eq!(text(source, &mutants), wanted);
    }

    #[test]
    fn arms_and_guards_are_asked() {
        let source = "fn f(a: u8) {\n match a {\n 1 => (),\n n if n > 2 => (),\n _ => () }\n}";
        let mutants = [
            mutant(1, Genre::Arm, (3, 2), ""),
            mutant(2, Genre::Arm, (4, 2), ""),
            mutant(3, Genre::Guard, (4, 7), "true"),
            mutant(4, Genre::Guard, (4, 7), "false"),
        ];
        let wanted = "fn f(a: u8) {\n match a {\n 1 if !on(1) => (),\n \
            n if !on(2) && ((if on(3) { true } else if on(4) { false } else { n > 2 })) => (),\n \
            _ => () }\n}";
        assert_eq!(text(source, &mutants), wanted);
    }

    #[test]
    fn what_the_compiler_must_know_is_left_alone() {
        let source = "const A: u8 = 1 + 1;\nfn f() -> [u8; 1 + 1] { [0; 1 + 1] }";
        let mutants = [
            mutant(1, Genre::Binary, (1, 17), "-"),
            mutant(2, Genre::Binary, (2, 17), "-"),
            mutant(3, Genre::Binary, (2, 31), "-"),
        ];
        let mutants: Vec<&Mutant> = mutants.iter().collect();
        let done = rewrite(source, &mutants, &HashSet::new()).unwrap();
        assert!(done.placed.is_empty());
        assert_eq!(done.text, source);
    }

    #[test]
    fn what_only_the_museum_looks_at_is_left_alone() {
        let source = "fn f(m: M, a: u8) -> u8 {\n\
            let odd = a + 1 > 2 && m.on(Exhibit::M01);\n\
            if odd && odd { return a + 2; }\n\
            match m.on(Exhibit::M02) { true => a + 3, false => a + 4 }\n}";
        let add = |number, from| mutant(number, Genre::Binary, from, "-");
        let all = [
            add(1, (2, 13)),
            mutant(2, Genre::Binary, (2, 21), "||"),
            add(3, (3, 26)),
            add(4, (4, 38)),
            add(5, (4, 54)),
            mutant(6, Genre::Binary, (3, 8), "||"),
        ];
        let mutants: Vec<&Mutant> = all.iter().collect();
        let done = rewrite(source, &mutants, &HashSet::new()).unwrap();
        assert_eq!(done.placed, HashSet::from([2, 5]));
    }

    #[test]
    fn pieces_lie_where_they_say() {
        let source = "fn f(a: u8) -> bool { a == 1 && a > 2 }";
        let mutants = [
            mutant(1, Genre::Binary, (1, 30), "||"),
            mutant(2, Genre::Binary, (1, 25), "!="),
        ];
        let mutants: Vec<&Mutant> = mutants.iter().collect();
        let done = rewrite(source, &mutants, &HashSet::new()).unwrap();
        let texts: Vec<&str> = done
            .pieces
            .iter()
            .map(|p| &done.text[p.at.clone()])
            .collect();
        assert!(texts.contains(&"a == 1 || a > 2"), "{texts:?}");
        assert!(texts.contains(&"a != 1"), "{texts:?}");
    }
}
