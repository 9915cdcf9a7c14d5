//! Puts many mutants into one source text, each behind a switch that is thrown when the program runs.
//!
//! A mutant of an expression becomes `(if on(7) { mutated } else { original })`, one of a function's value
//! a `return` before its body, a match arm that is to be gone a guard. What is evaluated by the compiler
//! (constants, array lengths, `const fn`) cannot be switched.

use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// What asks whether a mutant is on.
pub const ON: &str = "::mutant_switch::on";

/// A mutant, as cargo-mutants lists it.
#[derive(Clone, Deserialize)]
pub struct Mutant {
    pub name: String,
    pub file: String,
    pub genre: String,
    replacement: String,
    span: Place,
}

#[derive(Clone, Copy, Deserialize)]
struct Place {
    start: Point,
    end: Point,
}

/// Both from 1; columns in characters.
#[derive(Clone, Copy, Deserialize)]
struct Point {
    line: usize,
    column: usize,
}

/// What stands in the place of a range of the source.
enum Site {
    /// Mutants by number, with the text of each.
    Choice(Vec<(u32, String)>),
    /// Text in front of what is there.
    Before(String),
}

/// `source` with the mutants of it, each with its number, that can be switched.
///
/// # Errors
/// The source is no Rust.
pub fn switched(source: &str, mutants: &[(u32, &Mutant)]) -> syn::Result<String> {
    let file = syn::parse_file(source)?;
    let lines = line_starts(source);
    let mut finder =
        Finder { source, lines: &lines, wanted: BTreeMap::new(), sites: BTreeMap::new() };
    for (number, mutant) in mutants {
        let at = finder.offset(mutant.span.start.line, mutant.span.start.column - 1);
        let end = finder.offset(mutant.span.end.line, mutant.span.end.column - 1);
        finder.wanted.entry(at).or_default().push((*number, (*mutant).clone(), at..end));
    }
    finder.visit_file(&file);
    // A range comes before those inside it, and what is put in front of a place before what replaces it.
    let mut sites: Vec<_> = finder.sites.into_iter().collect();
    sites.sort_by_key(|((start, end), site)| {
        (*start, matches!(site, Site::Choice(_)), std::cmp::Reverse(*end))
    });
    let mut rest = &sites[..];
    Ok(render(source, 0..source.len(), &mut rest))
}

/// The numbers of the mutants in a switched text.
pub fn numbers(text: &str) -> HashSet<u32> {
    text.match_indices(ON).filter_map(|(at, _)| number(&text[at..])).collect()
}

/// The mutant of whose text the byte at `at` is a part: the innermost.
pub fn around(text: &str, at: usize) -> Option<u32> {
    let mut inner = None;
    for (from, _) in text.match_indices(&format!("if {ON}")).take_while(|it| it.0 <= at) {
        let open = from + text[from..].find('{')?;
        if at < closing(text, open) {
            inner = number(&text[from + 3..]);
        }
    }
    inner
}

/// The mutants that are guards of arms in the match whose scrutinee ends at `at`.
pub fn arms_behind(text: &str, at: usize) -> Vec<u32> {
    let Some(open) = text[at..].find('{').map(|it| at + it) else { return Vec::new() };
    let body = &text[open..closing(text, open)];
    let guard = format!("if !{ON}");
    body.match_indices(&guard).filter_map(|(at, _)| number(&body[at + 4..])).collect()
}

fn number(call: &str) -> Option<u32> {
    call.strip_prefix(ON)?.strip_prefix('(')?.split(')').next()?.parse().ok()
}

/// Where the brace that is opened at `open` is closed. Braces in strings come in pairs nearly always; where
/// not, a mutant too many is dropped.
fn closing(text: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in text[open..].bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at;
        }
    }
    text.len()
}

fn line_starts(source: &str) -> Vec<usize> {
    std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

type Sites<'a> = &'a [((usize, usize), Site)];

fn render(source: &str, range: Range<usize>, sites: &mut Sites) -> String {
    let mut text = String::new();
    let mut at = range.start;
    while let Some(((start, end), site)) = sites.first()
        && *start < range.end
    {
        *sites = &sites[1..];
        text.push_str(&source[at..*start]);
        at = *start;
        match site {
            Site::Before(before) => text.push_str(before),
            Site::Choice(mutants) => {
                text.push('(');
                for (number, mutated) in mutants {
                    text.push_str(&format!("if {ON}({number}) {{ {mutated} }} else "));
                }
                text.push_str(&format!("{{ {} }})", render(source, *start..*end, sites)));
                at = *end;
            }
        }
    }
    text.push_str(&source[at..range.end]);
    text
}

struct Finder<'a> {
    source: &'a str,
    lines: &'a [usize],
    /// By where their span starts.
    wanted: BTreeMap<usize, Vec<(u32, Mutant, Range<usize>)>>,
    sites: BTreeMap<(usize, usize), Site>,
}

impl Finder<'_> {
    /// Of a line from 1 and a column from 0.
    fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.lines[line - 1];
        let text = &self.source[start..];
        start + text.char_indices().nth(column).map_or(text.len(), |(at, _)| at)
    }

    fn range(&self, of: &impl Spanned) -> Range<usize> {
        let span = of.span();
        let (start, end) = (span.start(), span.end());
        self.offset(start.line, start.column)..self.offset(end.line, end.column)
    }

    /// Takes the mutants of these genres that start at `at`.
    fn take(&mut self, at: usize, genre: &str) -> Vec<(u32, Mutant, Range<usize>)> {
        let Some(here) = self.wanted.get_mut(&at) else { return Vec::new() };
        let (found, rest) = here.drain(..).partition(|it| it.1.genre == genre);
        *here = rest;
        found
    }

    fn choose(&mut self, range: Range<usize>, mutants: Vec<(u32, String)>) {
        if mutants.is_empty() {
            return;
        }
        let site = self.sites.entry((range.start, range.end));
        match site.or_insert_with(|| Site::Choice(Vec::new())) {
            Site::Choice(those) => those.extend(mutants),
            Site::Before(_) => {}
        }
    }

    fn before(&mut self, at: usize, text: &str) {
        match self.sites.entry((at, at)).or_insert_with(|| Site::Before(String::new())) {
            Site::Before(before) => before.push_str(text),
            Site::Choice(_) => {}
        }
    }

    /// The node's own text, with the operator's part of it replaced.
    fn operator(&mut self, node: Range<usize>, operator: usize, genre: &str) {
        let (source, mut mutants) = (self.source, Vec::new());
        for (number, mutant, range) in self.take(operator, genre) {
            let (left, right) = (&source[node.start..range.start], &source[range.end..node.end]);
            mutants.push((number, format!("{left} {} {right}", mutant.replacement)));
        }
        self.choose(node, mutants);
    }
}

/// Whether a condition takes a value apart, which is no expression that could stand elsewhere.
fn has_let(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(it) => has_let(&it.left) || has_let(&it.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'ast syn::TraitItemConst) {}
    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_variant(&mut self, _: &'ast syn::Variant) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
    fn visit_generic_argument(&mut self, _: &'ast syn::GenericArgument) {}

    fn visit_expr_repeat(&mut self, it: &'ast syn::ExprRepeat) {
        self.visit_expr(&it.expr);
    }

    fn visit_item_fn(&mut self, it: &'ast syn::ItemFn) {
        if it.sig.constness.is_none() {
            visit::visit_item_fn(self, it);
        }
    }

    fn visit_impl_item_fn(&mut self, it: &'ast syn::ImplItemFn) {
        if it.sig.constness.is_none() {
            visit::visit_impl_item_fn(self, it);
        }
    }

    fn visit_block(&mut self, it: &'ast syn::Block) {
        if let Some(first) = it.stmts.first() {
            let at = self.range(first).start;
            for (number, mutant, _) in self.take(at, "FnValue") {
                let value = &mutant.replacement;
                self.before(at, &format!("if {ON}({number}) {{ return {value}; }} "));
            }
        }
        visit::visit_block(self, it);
    }

    fn visit_expr_binary(&mut self, it: &'ast syn::ExprBinary) {
        if !has_let(&it.left) && !has_let(&it.right) {
            let operator = self.range(&it.op).start;
            self.operator(self.range(it), operator, "BinaryOperator");
        }
        visit::visit_expr_binary(self, it);
    }

    fn visit_expr_unary(&mut self, it: &'ast syn::ExprUnary) {
        let operator = self.range(&it.op).start;
        self.operator(self.range(it), operator, "UnaryOperator");
        visit::visit_expr_unary(self, it);
    }

    fn visit_arm(&mut self, it: &'ast syn::Arm) {
        let gone = self.take(self.range(it).start, "MatchArm");
        if let Some((_, guard)) = &it.guard {
            if has_let(guard) {
                return visit::visit_arm(self, it);
            }
            let range = self.range(guard);
            let mut mutants: Vec<_> =
                gone.into_iter().map(|it| (it.0, "false".to_owned())).collect();
            let others = self.take(range.start, "MatchArmGuard");
            mutants.extend(others.into_iter().map(|it| (it.0, it.1.replacement)));
            self.choose(range, mutants);
        } else {
            for (number, ..) in gone {
                self.before(self.range(&it.pat).end, &format!(" if !{ON}({number})"));
            }
        }
        visit::visit_arm(self, it);
    }

    fn visit_expr_struct(&mut self, it: &'ast syn::ExprStruct) {
        for field in &it.fields {
            let gone = self.take(self.range(field).start, "StructField");
            let (Some(rest), true) = (&it.rest, field.colon_token.is_some()) else { continue };
            let (rest, member) =
                (&self.source[self.range(rest)], &self.source[self.range(&field.member)]);
            let other = format!("({rest}).{member}");
            self.choose(
                self.range(&field.expr),
                gone.into_iter().map(|it| (it.0, other.clone())).collect(),
            );
        }
        visit::visit_expr_struct(self, it);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The only `part` of `source`, mutated.
    fn mutant(source: &str, part: &str, genre: &str, replacement: &str) -> Mutant {
        let at = source.find(part).unwrap();
        let point = |at: usize| {
            let line = source[..at].matches('\n').count() + 1;
            let column = at - source[..at].rfind('\n').map_or(0, |it| it + 1) + 1;
            Point { line, column }
        };
        Mutant {
            name: String::new(),
            file: String::new(),
            genre: genre.to_owned(),
            replacement: replacement.to_owned(),
            span: Place { start: point(at), end: point(at + part.len()) },
        }
    }

    fn text(source: &str, mutants: &[Mutant]) -> String {
        let numbered: Vec<_> = (1..).zip(mutants).collect();
        switched(source, &numbered).unwrap().replace(ON, "on")
    }

    #[test]
    fn an_operator_has_its_mutants_beside_it_and_those_of_its_operands_within() {
        let source = "fn f(a: u8) -> bool { a + 1 < 7 }";
        let mutants = [
            mutant(source, "<", "BinaryOperator", "<="),
            mutant(source, "<", "BinaryOperator", ">"),
            mutant(source, "+", "BinaryOperator", "-"),
        ];
        assert_eq!(
            text(source, &mutants),
            "fn f(a: u8) -> bool { (if on(1) { a + 1  <=  7 } else if on(2) { a + 1  >  7 } else { \
             (if on(3) { a  -  1 } else { a + 1 }) < 7 }) }"
        );
    }

    #[test]
    fn a_value_an_arm_and_a_guard() {
        let source = "fn f(a: u8) -> u8 {\n    match a { 1 => 2, 3 if g() => 4, _ => !5 }\n}";
        let mutants = [
            mutant(source, "match a { 1 => 2, 3 if g() => 4, _ => !5 }", "FnValue", "0"),
            mutant(source, "1 => 2", "MatchArm", ""),
            mutant(source, "3 if", "MatchArm", ""),
            mutant(source, "g()", "MatchArmGuard", "true"),
            mutant(source, "!", "UnaryOperator", ""),
        ];
        let text = text(source, &mutants);
        assert_eq!(
            text,
            "fn f(a: u8) -> u8 {\n    if on(1) { return 0; } match a { 1 if !on(2) => 2, 3 if (if on(3) { \
             false } else if on(4) { true } else { g() }) => 4, _ => (if on(5) {   5 } else { !5 }) }\n}"
        );
    }

    #[test]
    fn what_cannot_be_switched_is_left_alone() {
        let source =
            "const A: u8 = 1 + 2; const fn f() -> u8 { 3 * 4 } fn g() -> [u8; 5 / 1] { h() }";
        let mutants =
            ["+", "*", "/"].map(|operator| mutant(source, operator, "BinaryOperator", "%"));
        assert_eq!(text(source, &mutants), source);
        let source = "fn f() { match a { 1 if b && let Some(c) = d => c, _ => e } }";
        let mutants = [
            mutant(source, "&&", "BinaryOperator", "||"),
            mutant(source, "b && let Some(c) = d", "MatchArmGuard", "true"),
        ];
        assert_eq!(text(source, &mutants), source);
    }

    #[test]
    fn an_error_of_the_compiler_has_its_mutant() {
        let source = "fn f(a: u8) -> u8 { match a { 1 => a + 1, _ => 0 } }";
        let mutants =
            [mutant(source, "1 =>", "MatchArm", ""), mutant(source, "+", "BinaryOperator", "-")];
        let numbered: Vec<_> = (1..).zip(&mutants).collect();
        let text = switched(source, &numbered).unwrap();
        assert_eq!(numbers(&text), HashSet::from([1, 2]));
        assert_eq!(around(&text, text.find("a  -").unwrap()), Some(2));
        assert_eq!(around(&text, text.find("a + 1 }").unwrap()), None);
        assert_eq!(arms_behind(&text, text.find("match a").unwrap() + 7), [1]);
    }
}
