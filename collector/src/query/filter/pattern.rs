//! Patterns of LIKE and REGEXP, made fit for the engine.

use regex_syntax::ast::{
    self, AssertionKind, Ast, ClassBracketed, ClassSet, ClassSetItem, ClassUnicode, ClassUnicodeKind, Flag,
    FlagsItemKind, GroupKind, HexLiteralKind, Literal, LiteralKind, Repetition, RepetitionKind,
    RepetitionRange, Span,
};

/// Longest pattern, in bytes.
pub(super) const MAX_PATTERN_BYTES: usize = 1024;
/// Deepest nesting of groups in a regular expression.
const MAX_NESTING: u32 = 50;
/// Most often that a part may be repeated, also by repetitions around it: what RE2 takes.
const MAX_REPEATS: u32 = 1000;
/// Most that the patterns of one filter may cost together: RE2 takes its time to make a program of each,
/// while nothing ends the statement, and has room for some 80,000 instructions.
pub(super) const MAX_COST: usize = 20_000;
/// What each pattern costs, however short.
const COST_OF_PATTERN: usize = 20;
/// What a part of a pattern costs that stands for any character, or for most.
const COST_OF_ANY: usize = 10;
/// What a character costs.
const COST_OF_CHARACTER: usize = 2;

/// The general categories that RE2 and we agree on; those of unassigned characters are missing.
const CATEGORIES: [&str; 30] = [
    "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Pe",
    "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zs",
];

/// The pattern of LIKE for `ilike`, and what it costs: `*` is another `%`; a backslash makes `%`, `_`, `*`
/// and itself stand for themselves, and stands for itself before anything else.
pub(super) fn like(pattern: &str) -> (String, usize) {
    let mut engine = String::with_capacity(pattern.len());
    let mut cost = COST_OF_PATTERN;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        cost += if "%_*".contains(c) { COST_OF_ANY } else { COST_OF_CHARACTER };
        match c {
            '*' => engine.push('%'),
            '\\' => match chars.next_if(|c| matches!(c, '%' | '_' | '*' | '\\')) {
                Some('*') => engine.push('*'),
                Some(c) => engine.extend(['\\', c]),
                None => engine.push_str("\\\\"),
            },
            c => engine.push(c),
        }
    }
    (engine, cost)
}

/// What is wrong with a pattern of REGEXP, at which of its characters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PatternError {
    pub(super) at: usize,
    pub(super) problem: String,
}

/// What a regular expression costs, if RE2 accepts it too and understands it alike. The parser is that
/// of Rust's `regex`, whose syntax is RE2's and more; what is more is refused.
pub(super) fn regexp_cost(pattern: &str) -> Result<usize, PatternError> {
    let error = |at: &Span, problem: String| PatternError {
        at: pattern.get(..at.start.offset).unwrap_or(pattern).chars().count(),
        problem,
    };
    let parsed = ast::parse::ParserBuilder::new().nest_limit(MAX_NESTING).build().parse(pattern);
    let tree = parsed.map_err(|e| error(e.span(), e.kind().to_string()))?;
    let cost = Checker { pattern }.cost(&tree, 1).map_err(|(at, problem)| error(&at, problem))?;
    Ok(cost.saturating_add(COST_OF_PATTERN))
}

type Refused = (Span, String);

fn refused<T>(at: Span, what: &str) -> Result<T, Refused> {
    Err((at, format!("{what} is not in the syntax of RE2")))
}

struct Checker<'a> {
    pattern: &'a str,
}

impl Checker<'_> {
    /// About how many characters the engine's program spells out, when this is within `repeats` repetitions.
    fn cost(&self, ast: &Ast, repeats: u32) -> Result<usize, Refused> {
        match ast {
            Ast::Empty(_) => Ok(1),
            Ast::Flags(set) => flags(&set.flags.items).map(|()| 1),
            Ast::Literal(literal) => character(literal).map(|()| COST_OF_CHARACTER),
            Ast::Dot(_) | Ast::ClassPerl(_) => Ok(COST_OF_ANY),
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText
                | AssertionKind::WordBoundary
                | AssertionKind::NotWordBoundary => Ok(1),
                _ => refused(assertion.span, "this kind of word boundary"),
            },
            Ast::ClassUnicode(class) => unicode(class),
            Ast::ClassBracketed(class) => bracketed(class),
            Ast::Repetition(repetition) => self.repetition(repetition, repeats),
            Ast::Group(group) => {
                match &group.kind {
                    GroupKind::CaptureIndex(_) => {}
                    // RE2 has them too, but with other rules for the name, and nothing asks for it.
                    GroupKind::CaptureName { name, .. } => {
                        return Err((name.span, "a group needs no name here: write (".to_owned()));
                    }
                    GroupKind::NonCapturing(set) => flags(&set.items)?,
                }
                Ok(2 + self.cost(&group.ast, repeats)?)
            }
            Ast::Alternation(alternation) => self.sum(&alternation.asts, repeats),
            Ast::Concat(concat) => self.sum(&concat.asts, repeats),
        }
    }

    fn sum(&self, parts: &[Ast], repeats: u32) -> Result<usize, Refused> {
        parts.iter().try_fold(1, |sum: usize, part| Ok(sum.saturating_add(self.cost(part, repeats)?)))
    }

    fn repetition(&self, repetition: &Repetition, repeats: u32) -> Result<usize, Refused> {
        let at = repetition.op.span;
        if matches!(*repetition.ast, Ast::Repetition(_)) {
            return refused(at, "a repetition of a repetition without parentheses");
        }
        let times = match &repetition.op.kind {
            RepetitionKind::ZeroOrOne | RepetitionKind::ZeroOrMore | RepetitionKind::OneOrMore => 1,
            RepetitionKind::Range(range) => {
                let text = self.pattern.get(at.start.offset..at.end.offset).unwrap_or_default();
                if !text.strip_prefix('{').is_some_and(|t| t.starts_with(|c: char| c.is_ascii_digit()))
                    || text.contains(char::is_whitespace)
                {
                    return refused(at, "a count that is not written {1}, {1,} or {1,2}");
                }
                match range {
                    RepetitionRange::Exactly(n) | RepetitionRange::AtLeast(n) => *n,
                    RepetitionRange::Bounded(_, most) => *most,
                }
            }
        };
        let nested = repeats.saturating_mul(times.max(1));
        if nested > MAX_REPEATS {
            return Err((at, format!("repeats more than {MAX_REPEATS} times")));
        }
        let part = self.cost(&repetition.ast, nested)?;
        Ok(part.saturating_mul(usize::try_from(times.max(1)).unwrap_or(usize::MAX)).saturating_add(2))
    }
}

fn flags(items: &[ast::FlagsItem]) -> Result<(), Refused> {
    for item in items {
        match item.kind {
            FlagsItemKind::Negation
            | FlagsItemKind::Flag(
                Flag::CaseInsensitive | Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed,
            ) => {}
            FlagsItemKind::Flag(Flag::Unicode | Flag::CRLF | Flag::IgnoreWhitespace) => {
                return refused(item.span, "this flag");
            }
        }
    }
    Ok(())
}

fn character(literal: &Literal) -> Result<(), Refused> {
    match literal.kind {
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::Octal => refused(literal.span, "this escape (write \\x{10FFFF})"),
        LiteralKind::Verbatim
        | LiteralKind::Meta
        | LiteralKind::Superfluous
        | LiteralKind::HexFixed(HexLiteralKind::X)
        | LiteralKind::HexBrace(HexLiteralKind::X)
        | LiteralKind::Special(_) => Ok(()),
    }
}

fn unicode(class: &ClassUnicode) -> Result<usize, Refused> {
    let known = match &class.kind {
        ClassUnicodeKind::OneLetter(letter) => CATEGORIES.contains(&letter.to_string().as_str()),
        ClassUnicodeKind::Named(name) => CATEGORIES.contains(&name.as_str()),
        ClassUnicodeKind::NamedValue { .. } => false,
    };
    if known {
        // Some hundred ranges of up to four bytes.
        Ok(1000)
    } else {
        Err((class.span, format!("is not one of the classes {}", CATEGORIES.join(", "))))
    }
}

fn bracketed(class: &ClassBracketed) -> Result<usize, Refused> {
    match &class.kind {
        ClassSet::Item(item) => Ok(COST_OF_ANY + class_item(item)?),
        ClassSet::BinaryOp(operation) => {
            refused(operation.span, "an operation on classes (write \\&, \\- or \\~)")
        }
    }
}

fn class_item(item: &ClassSetItem) -> Result<usize, Refused> {
    match item {
        ClassSetItem::Empty(_) => Ok(1),
        ClassSetItem::Literal(literal) => character(literal).map(|()| COST_OF_CHARACTER),
        ClassSetItem::Range(range) => {
            character(&range.start)?;
            character(&range.end).map(|()| COST_OF_ANY)
        }
        ClassSetItem::Ascii(_) | ClassSetItem::Perl(_) => Ok(COST_OF_ANY),
        ClassSetItem::Unicode(class) => unicode(class),
        ClassSetItem::Bracketed(class) => refused(class.span, "a class in a class (write \\[)"),
        ClassSetItem::Union(union) => {
            union.items.iter().try_fold(0, |sum: usize, item| Ok(sum.saturating_add(class_item(item)?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_a_percent_sign_and_a_backslash_protects() {
        for (pattern, engine) in [
            ("redis*", "redis%"),
            ("%a_b%", "%a_b%"),
            (r"100\%", r"100\%"),
            (r"a\_b", r"a\_b"),
            (r"a\*b", "a*b"),
            (r"C:\\x", r"C:\\x"),
            (r"C:\x", r"C:\\x"),
            (r"end\", r"end\\"),
            ("", ""),
        ] {
            assert_eq!(like(pattern).0, engine, "{pattern}");
        }
    }

    fn check(pattern: &str, expected: &str) {
        let text = match regexp_cost(pattern) {
            Ok(_) => "taken".to_owned(),
            Err(PatternError { at, problem }) => format!("{at}: {problem}"),
        };
        assert_eq!(text, expected, "{pattern}");
    }

    #[test]
    fn what_the_engine_has_to_spell_out_costs() {
        let cost = |pattern: &str| regexp_cost(pattern).unwrap_or(0);
        assert_eq!((like("web-*").1, like(r"\*a").1), (38, 24));
        assert!(cost(".{1000}") < MAX_COST && cost("[^a]{1000}") < MAX_COST);
        assert!(cost("(a{10}){100}") > 2000 && cost("(a{10}){100}") < MAX_COST);
        assert!(cost(r"\pL{20}") > MAX_COST);
        assert!(cost("(((.{10}){10}b{2}){10}|x)?") > 10_000);
    }

    /// The list of the test on the engine: `tests/query/filter/patterns.rs`.
    #[test]
    fn what_re2_and_rust_understand_alike_is_taken() {
        for pattern in [
            "",
            "^redis-[0-9]+$",
            "a|b|",
            "(a)(?:b)(?i:c)",
            "(?i)x(?-i)y",
            "a*b+c?d{2}e{2,}f{2,4}",
            "a*?b+?c??d{2}?",
            r"\d\D\w\W\s\S\b\B\A\z",
            r"[a-z\d_.\-][^\]x]",
            "[]a]",
            "[[:alpha:]_]",
            "[^[:^digit:]]",
            r"\pL\p{Lu}\PN[\p{Nd}]",
            r"\x41\x{1F525}\a\f\t\n\r\v",
            r"\.\*\_\-\/\&",
            "größe",
            "(a{10}){100}",
            "(?s).*(?m)^x$(?U)a+",
        ] {
            check(pattern, "taken");
        }
    }

    #[test]
    fn what_the_two_do_not_share_is_refused_with_its_place() {
        check("a(b", "1: unclosed group");
        check("größe)", "5: unopened group");
        check("*a", "0: repetition operator missing expression");
        check("[z-a]", "1: invalid character class range, the start must be <= the end");
        check("x[a", "1: unclosed character class");
        check(r"a\q", "1: unrecognized escape sequence");
        check(r"(a)\1", "3: backreferences are not supported");
        check("a(?=b)", "1: look-around, including look-ahead and look-behind, is not supported");
        check("a**", "2: a repetition of a repetition without parentheses is not in the syntax of RE2");
        check("a{1001}", "1: repeats more than 1000 times");
        check("(a{100}){11}", "2: repeats more than 1000 times");
        check("(?x) a", "2: this flag is not in the syntax of RE2");
        check("(?P<n>a)", "4: a group needs no name here: write (");
        check(r"\u0041", r"0: this escape (write \x{10FFFF}) is not in the syntax of RE2");
        check(r"\<a", "0: this kind of word boundary is not in the syntax of RE2");
        check("[a&&b]", "1: an operation on classes (write \\&, \\- or \\~) is not in the syntax of RE2");
        check("[a[b]]", "2: a class in a class (write \\[) is not in the syntax of RE2");
        check("a{ 2}", "1: a count that is not written {1}, {1,} or {1,2} is not in the syntax of RE2");
        let classes = CATEGORIES.join(", ");
        check(r"\p{Greek}", &format!("0: is not one of the classes {classes}"));
        check(&"(".repeat(60), "59: unclosed group");
        check(
            &format!("{}{}", "(".repeat(60), ")".repeat(60)),
            "50: exceed the maximum number of nested parentheses/brackets (50)",
        );
    }
}
