//! `<name>`: nested, local and unqualified names, operators and lambdas.

use super::types::Type;
use super::{NotDemangled, Parser, Result, Signature};

/// A parsed `<name>`.
pub(super) struct Name {
    pub(super) text: String,
    /// Of a member function, with a leading space: ` const`, ` &&`.
    pub(super) qualifiers: String,
    /// A template function other than a constructor or conversion carries its
    /// return type before its parameters.
    pub(super) has_return_type: bool,
}

/// The part of a name after the last `::`.
struct Part {
    text: String,
    /// Constructors, destructors and conversions have no return type.
    returns: bool,
}

impl Parser<'_> {
    /// `<name>`. With `of_encoding` its template arguments become what `T_` is.
    pub(super) fn name(&mut self, of_encoding: bool) -> Result<Name> {
        self.nested(|p| match p.peek().ok_or(NotDemangled)? {
            b'N' => p.nested_name(of_encoding),
            b'Z' => p.local_name(of_encoding),
            b'S' if p.peek_second() != Some(b't') => {
                let template = p.substitution()?;
                if p.peek() != Some(b'I') {
                    return Err(NotDemangled);
                }
                let text = template.text() + &p.template_args(of_encoding)?;
                Ok(Name { text, qualifiers: String::new(), has_return_type: true })
            }
            _ => {
                let std = p.accept(b"St");
                let part = p.unqualified_name("")?;
                let mut text = if std { format!("std::{}", part.text) } else { part.text };
                let mut has_return_type = false;
                if p.peek() == Some(b'I') {
                    p.remember(Type::plain(text.clone()))?;
                    text += &p.template_args(of_encoding)?;
                    has_return_type = part.returns;
                }
                Ok(Name { text, qualifiers: String::new(), has_return_type })
            }
        })
    }

    /// `N [qualifiers] <prefix>… E`
    fn nested_name(&mut self, of_encoding: bool) -> Result<Name> {
        self.expect(b"N")?;
        if self.accept(b"H") {
            // An explicit object parameter changes nothing that is shown.
        }
        let mut qualifiers = self.cv_qualifiers();
        if self.accept(b"O") {
            qualifiers.push_str(" &&");
        } else if self.accept(b"R") {
            qualifiers.push_str(" &");
        }
        let mut text = String::new();
        // Of the last part without template arguments: a constructor's name.
        let mut base = String::new();
        let mut has_return_type = false;
        let mut returns = true;
        while !self.accept(b"E") {
            self.spend(1)?;
            match self.peek().ok_or(NotDemangled)? {
                b'S' if self.peek_second() != Some(b't') => {
                    if !text.is_empty() {
                        return Err(NotDemangled);
                    }
                    let short = self.abbreviation_followed_by_constructor();
                    let substitution = self.substitution()?;
                    text = short.map_or_else(|| substitution.text(), str::to_owned);
                    base = base_of(&text).to_owned();
                    has_return_type = false;
                    // Known already: it is not remembered again.
                    continue;
                }
                b'I' => {
                    if text.is_empty() {
                        return Err(NotDemangled);
                    }
                    text += &self.template_args(of_encoding)?;
                    has_return_type = returns;
                }
                b'T' => {
                    text = self.template_param()?.text();
                    base = base_of(&text).to_owned();
                    has_return_type = false;
                }
                b'D' if matches!(self.peek_second(), Some(b't' | b'T')) => {
                    text = self.decltype()?.text();
                    has_return_type = false;
                }
                _ => {
                    let std = self.accept(b"St");
                    if std && !text.is_empty() {
                        return Err(NotDemangled);
                    }
                    let part = self.unqualified_name(&base)?;
                    base = base_of(&part.text).to_owned();
                    returns = part.returns;
                    has_return_type = false;
                    if std {
                        text = format!("std::{}", part.text);
                    } else if text.is_empty() {
                        text = part.text;
                    } else {
                        text = format!("{text}::{}", part.text);
                    }
                    // A member's data initializer scope.
                    self.accept(b"M");
                }
            }
            if self.peek() != Some(b'E') {
                self.remember(Type::plain(text.clone()))?;
            }
        }
        if text.is_empty() { Err(NotDemangled) } else { Ok(Name { text, qualifiers, has_return_type }) }
    }

    /// `std::string` is shown as the template it is where its constructor
    /// follows, whose name is the template's.
    fn abbreviation_followed_by_constructor(&self) -> Option<&'static str> {
        match self.rest {
            [b'S', code @ (b's' | b'i' | b'o' | b'd'), b'C' | b'D', b'0'..=b'9', ..] => Some(match code {
                b's' => "std::basic_string<char, std::char_traits<char>, std::allocator<char> >",
                b'i' => "std::basic_istream<char, std::char_traits<char> >",
                b'o' => "std::basic_ostream<char, std::char_traits<char> >",
                _ => "std::basic_iostream<char, std::char_traits<char> >",
            }),
            _ => None,
        }
    }

    /// `Z <encoding> E (<name> | s | d…)`
    fn local_name(&mut self, of_encoding: bool) -> Result<Name> {
        self.expect(b"Z")?;
        let function = self.encoding(Signature::Show)?;
        self.expect(b"E")?;
        if self.accept(b"s") {
            self.discriminator();
            let text = format!("{function}::string literal");
            return Ok(Name { text, qualifiers: String::new(), has_return_type: false });
        }
        let mut default_argument = String::new();
        if self.accept(b"d") {
            let index = self.index(false)? + 1;
            default_argument = format!("{{default arg#{index}}}::");
        }
        let entity = self.name(of_encoding)?;
        self.discriminator();
        let text = format!("{function}::{default_argument}{}", entity.text);
        Ok(Name { text: self.made(text)?, ..entity })
    }

    fn discriminator(&mut self) {
        let digits = |bytes: &[u8]| bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        match self.rest {
            [b'_', b'_', tail @ ..] => {
                let count = digits(tail);
                if let Some(rest) = tail.get(count..).and_then(|r| r.strip_prefix(b"_")) {
                    self.rest = rest;
                }
            }
            [b'_', b'0'..=b'9', rest @ ..] => self.rest = rest,
            _ => {}
        }
    }

    /// A source name, operator, constructor, lambda or unnamed type. `class` is
    /// the name of the class around it.
    fn unqualified_name(&mut self, class: &str) -> Result<Part> {
        while self.accept(b"F") || self.accept(b"L") {
            self.spend(1)?;
        }
        let mut part = match self.rest {
            [b'0'..=b'9', ..] => Part { text: self.source_name()?, returns: true },
            [b'U', b't', ..] => {
                self.rest = &self.rest[2..];
                let index = self.index(false)? + 1;
                Part { text: format!("{{unnamed type#{index}}}"), returns: true }
            }
            [b'U', b'l', ..] => Part { text: self.lambda()?, returns: true },
            [b'C', b'I', b'1'..=b'5', ..] => {
                self.rest = &self.rest[3..];
                self.type_()?;
                Part { text: class.to_owned(), returns: false }
            }
            [b'C', b'1'..=b'5', ..] if !class.is_empty() => {
                self.rest = &self.rest[2..];
                Part { text: class.to_owned(), returns: false }
            }
            [b'D', b'0'..=b'5', ..] if !class.is_empty() => {
                self.rest = &self.rest[2..];
                Part { text: format!("~{class}"), returns: false }
            }
            [b'D', b'C', ..] => {
                self.rest = &self.rest[2..];
                let mut names = Vec::new();
                while !self.accept(b"E") {
                    names.push(self.source_name()?);
                }
                Part { text: format!("[{}]", names.join(", ")), returns: true }
            }
            _ => self.operator_name()?,
        };
        while self.accept(b"B") {
            let tag = self.source_name()?;
            part.text = format!("{}[abi:{tag}]", part.text);
        }
        part.text = self.made(part.text)?;
        Ok(part)
    }

    pub(super) fn source_name(&mut self) -> Result<String> {
        let length = self.number()?;
        if length == 0 || length > self.rest.len() {
            return Err(NotDemangled);
        }
        let (name, rest) = self.rest.split_at(length);
        self.rest = rest;
        if name.starts_with(b"_GLOBAL_") && matches!(name.get(8..10), Some([b'_' | b'.' | b'$', b'N'])) {
            return Ok("(anonymous namespace)".to_owned());
        }
        let text = str::from_utf8(name).map_err(|_| NotDemangled)?.to_owned();
        self.made(text)
    }

    /// `Ul <parameters> E [number] _`
    fn lambda(&mut self) -> Result<String> {
        self.expect(b"Ul")?;
        let outer = std::mem::replace(&mut self.in_lambda, true);
        // Template parameters that are declared do not change what is shown.
        while self.accept(b"Ty") {
            self.spend(1)?;
        }
        let parameters = self.parameters()?;
        self.in_lambda = outer;
        self.expect(b"E")?;
        let index = self.index(false)? + 1;
        Ok(format!("{{lambda({parameters})#{index}}}"))
    }

    fn operator_name(&mut self) -> Result<Part> {
        if self.accept(b"cv") {
            let outer = std::mem::replace(&mut self.forward_references, true);
            let target = self.type_()?;
            self.forward_references = outer;
            return Ok(Part { text: format!("operator {}", target.text()), returns: false });
        }
        if self.accept(b"li") {
            return Ok(Part { text: format!("operator\"\" {}", self.source_name()?), returns: true });
        }
        if let [b'v', b'0'..=b'9', ..] = self.rest {
            self.rest = &self.rest[2..];
            return Ok(Part { text: format!("operator {}", self.source_name()?), returns: true });
        }
        let code = self.rest.get(..2).ok_or(NotDemangled)?;
        let symbol = operator_symbol(code).ok_or(NotDemangled)?;
        self.rest = &self.rest[2..];
        let word = symbol.starts_with(|c: char| c.is_ascii_alphabetic());
        // `operator<< <int>`: template arguments must not join the operator.
        let space = if symbol.ends_with('<') && self.peek() == Some(b'I') { " " } else { "" };
        Ok(Part { text: format!("operator{}{symbol}{space}", if word { " " } else { "" }), returns: true })
    }

    /// `I <template-arg>… E`, as `<…>`.
    pub(super) fn template_args(&mut self, of_encoding: bool) -> Result<String> {
        self.nested(|p| {
            p.expect(b"I")?;
            if of_encoding {
                p.template_args.clear();
            }
            let mut texts = Vec::new();
            let mut ends_with_nothing = false;
            while !p.accept(b"E") {
                if p.accept(b"Q") {
                    // A constraint is no argument, and the list ends with it.
                    p.expression()?;
                    continue;
                }
                let arg = p.template_arg()?;
                let text = arg.text();
                ends_with_nothing = text.is_empty() && arg.is_pack();
                if !ends_with_nothing {
                    texts.push(text);
                }
                if of_encoding {
                    p.pay_for(arg.len())?;
                    p.template_args.push(arg);
                }
            }
            let list = texts.join(", ");
            // A last pack of nothing takes the place of the space.
            let close = if list.ends_with('>') && !ends_with_nothing { " >" } else { ">" };
            p.made(format!("<{list}{close}"))
        })
    }

    fn template_arg(&mut self) -> Result<Type> {
        self.nested(|p| match p.peek().ok_or(NotDemangled)? {
            b'X' => {
                p.take()?;
                let text = p.expression()?;
                p.expect(b"E")?;
                Ok(Type::plain(text))
            }
            b'L' => Ok(Type::plain(p.literal()?)),
            b'J' => {
                p.take()?;
                let mut pack = Vec::new();
                while !p.accept(b"E") {
                    pack.push(p.template_arg()?);
                }
                Ok(Type::pack(pack))
            }
            _ => p.type_(),
        })
    }
}

/// The last part of a qualified name, without template arguments: the name of
/// a constructor of that class.
fn base_of(text: &str) -> &str {
    let mut depth = 0usize;
    let mut end = text.len();
    for (at, byte) in text.bytes().enumerate().rev() {
        match byte {
            b'>' | b')' | b'}' => depth += 1,
            b'<' | b'(' | b'{' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && byte == b'<' {
                    end = at;
                }
            }
            b':' if depth == 0 => return text.get(at + 1..end).unwrap_or(text),
            _ => {}
        }
    }
    text.get(..end).unwrap_or(text)
}

/// What follows `operator` for a two-letter code.
pub(super) fn operator_symbol(code: &[u8]) -> Option<&'static str> {
    Some(match code {
        b"nw" => "new",
        b"na" => "new[]",
        b"dl" => "delete",
        b"da" => "delete[]",
        b"aw" => "co_await",
        b"ps" | b"pl" => "+",
        b"ng" | b"mi" => "-",
        b"ad" | b"an" => "&",
        b"de" | b"ml" => "*",
        b"co" => "~",
        b"dv" => "/",
        b"rm" => "%",
        b"or" => "|",
        b"eo" => "^",
        b"aS" => "=",
        b"pL" => "+=",
        b"mI" => "-=",
        b"mL" => "*=",
        b"dV" => "/=",
        b"rM" => "%=",
        b"aN" => "&=",
        b"oR" => "|=",
        b"eO" => "^=",
        b"ls" => "<<",
        b"rs" => ">>",
        b"lS" => "<<=",
        b"rS" => ">>=",
        b"eq" => "==",
        b"ne" => "!=",
        b"lt" => "<",
        b"gt" => ">",
        b"le" => "<=",
        b"ge" => ">=",
        b"ss" => "<=>",
        b"nt" => "!",
        b"aa" => "&&",
        b"oo" => "||",
        b"pp" => "++",
        b"mm" => "--",
        b"cm" => ",",
        b"pm" => "->*",
        b"pt" => "->",
        b"cl" => "()",
        b"ix" => "[]",
        b"qu" => "?",
        _ => return None,
    })
}
