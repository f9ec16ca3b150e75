//! What is decided without the museum: its switches are off in all that ships, and the rules of
//! clusters are kept.
//!
//! ```text
//!   museum.on(Exhibit::M01)               is false
//!   keep(Rule::D1), self.keep(Rule::D1)   is true
//!   a && museum.on(..)                    is false, whatever a is: changes in a change nothing
//!   let odd = a && museum.on(..)          so is odd, from here on
//!   if museum.on(..) { never } else { .. }
//!   if !museum.on(..) { return } never
//! ```

use std::collections::HashMap;

/// Names that are bound to what is decided.
pub type Names = HashMap<String, bool>;

/// What a condition is in a build without the museum, if no more is needed to know it.
pub fn decided(expr: &syn::Expr, names: &Names) -> Option<bool> {
    match expr {
        syn::Expr::Paren(inner) => decided(&inner.expr, names),
        syn::Expr::Unary(one) if matches!(one.op, syn::UnOp::Not(_)) => {
            decided(&one.expr, names).map(|is| !is)
        }
        syn::Expr::MethodCall(call) if call.method == "keep" => is_rule(&call.args).then_some(true),
        syn::Expr::MethodCall(call) => is_switch(call).then_some(false),
        syn::Expr::Call(call) => {
            let keep = matches!(&*call.func, syn::Expr::Path(path) if path.path.is_ident("keep"));
            (keep && is_rule(&call.args)).then_some(true)
        }
        syn::Expr::Path(path) => names.get(&path.path.get_ident()?.to_string()).copied(),
        syn::Expr::Binary(both) => {
            let decides = decider(&both.op)?;
            match (decided(&both.left, names), decided(&both.right, names)) {
                (Some(one), _) | (_, Some(one)) if one == decides => Some(decides),
                (Some(_), Some(_)) => Some(!decides),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The side of `&&` or `||` that decides it alone.
pub fn decider(op: &syn::BinOp) -> Option<bool> {
    match op {
        syn::BinOp::And(_) => Some(false),
        syn::BinOp::Or(_) => Some(true),
        _ => None,
    }
}

/// `#[cfg(feature = "museum")]`.
pub fn is_inside(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|attr| {
        let meta: Result<syn::MetaNameValue, _> = attr.parse_args();
        let is = |value: &syn::Expr| match value {
            syn::Expr::Lit(lit) => matches!(&lit.lit, syn::Lit::Str(s) if s.value() == "museum"),
            _ => false,
        };
        let feature = |it: &syn::MetaNameValue| it.path.is_ident("feature") && is(&it.value);
        attr.path().is_ident("cfg") && meta.as_ref().is_ok_and(feature)
    })
}

/// `museum.on(Exhibit::M01)`.
fn is_switch(call: &syn::ExprMethodCall) -> bool {
    call.method == "on" && names_one_of(&call.args, "Exhibit")
}

/// The argument of `keep(Rule::D1)`.
fn is_rule(args: &Args) -> bool {
    names_one_of(args, "Rule")
}

type Args = syn::punctuated::Punctuated<syn::Expr, syn::Token![,]>;

fn names_one_of(args: &Args, of: &str) -> bool {
    let Some(syn::Expr::Path(argument)) = args.first() else {
        return false;
    };
    let first = argument.path.segments.first();
    first.is_some_and(|first| first.ident == of)
}

/// Whether a statement always leaves the function.
pub fn leaves(stmt: &syn::Stmt, names: &Names) -> bool {
    match stmt {
        syn::Stmt::Expr(syn::Expr::Return(_), _) => true,
        syn::Stmt::Expr(syn::Expr::If(one), _) if one.else_branch.is_none() => {
            let last = one.then_branch.stmts.last();
            decided(&one.cond, names) == Some(true) && last.is_some_and(|s| leaves(s, names))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(text: &str) -> Option<bool> {
        let names = Names::from([("odd".to_owned(), false)]);
        decided(&syn::parse_str(text).unwrap(), &names)
    }

    #[test]
    fn switches_are_off_and_decide_what_they_can() {
        assert_eq!(is("self.io.museum.on(Exhibit::M01)"), Some(false));
        assert_eq!(is("!museum.on(Exhibit::M01)"), Some(true));
        assert_eq!(is("a > 1 && museum.on(Exhibit::M01)"), Some(false));
        assert_eq!(is("odd && b"), Some(false));
        assert_eq!(is("!odd && !museum.on(Exhibit::M01)"), Some(true));
        assert_eq!(is("!odd && b"), None);
        assert_eq!(is("odd || b"), None);
        assert_eq!(is("odd || museum.on(Exhibit::M01)"), Some(false));
        assert_eq!(is("b || !museum.on(Exhibit::M01)"), Some(true));
        assert_eq!(is("(a || b) == museum.on(Exhibit::M01)"), None);
        assert_eq!(is("lamp.on(Wall)"), None);
        assert_eq!(is("!self.keep(Rule::D1)"), Some(false));
        assert_eq!(is("a && !keep(Rule::D1)"), Some(false));
        assert_eq!(is("a && self.keep(Rule::D1)"), None);
        assert_eq!(is("self.keep(rule) || keep(one)"), None);
    }

    #[test]
    fn what_is_compiled_for_the_museum_is_inside() {
        let inside = |text: &str| {
            let item: syn::ItemFn = syn::parse_str(text).unwrap();
            is_inside(&item.attrs)
        };
        assert!(inside("#[cfg(feature = \"museum\")] fn f() {}"));
        assert!(!inside("#[cfg(not(feature = \"museum\"))] fn f() {}"));
        assert!(!inside("#[cfg(test)] #[inline] fn f() {}"));
    }
}
