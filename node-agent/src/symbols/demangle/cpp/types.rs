//! `<type>`: a type's text is made of what stands left and right of a name of
//! that type: `void (*` and `)(int)` for a pointer to a function.

use super::{NotDemangled, Parser, Result};

/// A parsed type, or a pack of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Type {
    left: String,
    right: String,
    shape: Shape,
    reference: Reference,
    pack: Option<Vec<Type>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Shape {
    #[default]
    Plain,
    Function,
    Array,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Reference {
    #[default]
    No,
    Lvalue,
    Rvalue,
}

impl Type {
    pub(super) fn plain(text: String) -> Self {
        Self { left: text, ..Self::default() }
    }

    pub(super) fn pack(types: Vec<Type>) -> Self {
        Self { pack: Some(types), ..Self::default() }
    }

    pub(super) fn is_pack(&self) -> bool {
        self.pack.is_some()
    }

    pub(super) fn text(&self) -> String {
        match &self.pack {
            Some(types) => {
                let texts: Vec<String> =
                    types.iter().map(Type::text).filter(|text| !text.is_empty()).collect();
                texts.join(", ")
            }
            None => format!("{}{}", self.left, self.right),
        }
    }

    /// How many types the pack has; `None` for a type.
    pub(super) fn pack_len(&self) -> Option<usize> {
        self.pack.as_ref().map(Vec::len)
    }

    /// Bytes of its text, about.
    pub(super) fn len(&self) -> usize {
        let pack = self.pack.iter().flatten().map(|t| t.len() + 2).sum::<usize>();
        self.left.len() + self.right.len() + pack
    }

    /// The same change to a type or to each one of a pack.
    fn map(mut self, change: &impl Fn(Type) -> Type) -> Type {
        match self.pack.take() {
            Some(types) => Type::pack(types.into_iter().map(|t| t.map(change)).collect()),
            None => change(self),
        }
    }

    fn with_declarator(mut self, declarator: &str) -> Type {
        if self.shape != Shape::Plain {
            self.left.push_str(if self.shape == Shape::Array && !self.left.ends_with(' ') {
                " ("
            } else {
                "("
            });
            self.right.insert(0, ')');
            self.shape = Shape::Plain;
        }
        self.left.push_str(declarator);
        self.reference = Reference::No;
        self
    }

    fn referenced(self, reference: Reference) -> Type {
        match (self.reference, reference) {
            // References collapse: `&` wins.
            (Reference::Lvalue, _) | (Reference::Rvalue, Reference::Rvalue) => self,
            (Reference::Rvalue, _) => {
                let mut collapsed = self;
                collapsed.left.pop();
                collapsed.reference = Reference::Lvalue;
                collapsed
            }
            (Reference::No, Reference::No) => self,
            (Reference::No, wanted) => {
                let mut made = self.with_declarator(if wanted == Reference::Lvalue { "&" } else { "&&" });
                made.reference = wanted;
                made
            }
        }
    }

    fn qualified(mut self, qualifiers: &str) -> Type {
        if self.shape == Shape::Function {
            self.right.push_str(qualifiers);
        } else if self.reference == Reference::No {
            self.left.push_str(qualifiers);
        }
        self
    }
}

impl Parser<'_> {
    pub(super) fn type_(&mut self) -> Result<Type> {
        self.nested(|p| {
            let (parsed, remember) = p.unremembered_type()?;
            p.pay_for(parsed.len())?;
            if remember {
                p.remember(parsed.clone())?;
            }
            Ok(parsed)
        })
    }

    /// A type, and whether it becomes a substitution.
    fn unremembered_type(&mut self) -> Result<(Type, bool)> {
        if let Some(builtin) = self.builtin() {
            return Ok((Type::plain(builtin.to_owned()), false));
        }
        let made = match self.peek().ok_or(NotDemangled)? {
            b'r' | b'V' | b'K' => {
                let qualifiers = self.cv_qualifiers();
                // Those of a member function are part of its type.
                let is_function = self.peek() == Some(b'F');
                let inner = if is_function { self.function()? } else { self.type_()? };
                inner.map(&|t| t.qualified(&qualifiers))
            }
            b'P' => self.after(1)?.map(&|t| t.with_declarator("*")),
            b'R' => self.after(1)?.map(&|t| t.referenced(Reference::Lvalue)),
            b'O' => self.after(1)?.map(&|t| t.referenced(Reference::Rvalue)),
            b'C' => self.after(1)?.map(&|t| t.qualified(" _Complex")),
            b'G' => self.after(1)?.map(&|t| t.qualified(" _Imaginary")),
            b'A' => self.array()?,
            b'F' => self.function()?,
            b'M' => self.pointer_to_member()?,
            b'U' => return self.vendor_qualified(),
            b'u' => {
                self.take()?;
                Type::plain(self.source_name()?)
            }
            b'T' if matches!(self.peek_second(), Some(b's' | b'u' | b'e')) => {
                self.rest = &self.rest[2..];
                Type::plain(self.name(false)?.text)
            }
            b'T' => {
                let parameter = self.template_param()?;
                if self.peek() == Some(b'I') && !self.forward_references {
                    self.remember(parameter.clone())?;
                    Type::plain(parameter.text() + &self.template_args(false)?)
                } else {
                    parameter
                }
            }
            b'D' => return self.d_type(),
            b'S' if self.peek_second() != Some(b't') => {
                let substitution = self.substitution()?;
                if self.peek() != Some(b'I') {
                    return Ok((substitution, false));
                }
                Type::plain(substitution.text() + &self.template_args(false)?)
            }
            b'S' | b'N' | b'Z' | b'0'..=b'9' => Type::plain(self.name(false)?.text),
            _ => return Err(NotDemangled),
        };
        Ok((made, true))
    }

    /// The type after a prefix of so many bytes.
    fn after(&mut self, bytes: usize) -> Result<Type> {
        self.rest = self.rest.get(bytes..).ok_or(NotDemangled)?;
        self.type_()
    }

    /// In the order in which they are written: ` const volatile restrict`.
    pub(super) fn cv_qualifiers(&mut self) -> String {
        let restrict = self.accept(b"r");
        let volatile = self.accept(b"V");
        let constant = self.accept(b"K");
        let mut text = String::new();
        for (present, word) in [(constant, " const"), (volatile, " volatile"), (restrict, " __restrict")] {
            if present {
                text.push_str(word);
            }
        }
        text
    }

    fn builtin(&mut self) -> Option<&'static str> {
        let two = |name, bytes| Some((name, bytes));
        let (name, bytes) = match self.rest {
            [b'D', code, ..] => match code {
                b'd' => two("decimal64", 2),
                b'e' => two("decimal128", 2),
                b'f' => two("decimal32", 2),
                b'h' => two("half", 2),
                b'i' => two("char32_t", 2),
                b's' => two("char16_t", 2),
                b'u' => two("char8_t", 2),
                b'a' => two("auto", 2),
                b'c' => two("decltype(auto)", 2),
                b'n' => two("decltype(nullptr)", 2),
                b'F' if self.rest.starts_with(b"DF16_") => two("_Float16", 5),
                b'F' if self.rest.starts_with(b"DF16b") => two("std::bfloat16_t", 5),
                _ => None,
            },
            [code, ..] => builtin_letter(*code).map(|name| (name, 1)),
            [] => None,
        }?;
        self.rest = &self.rest[bytes..];
        Some(name)
    }

    /// Types under `D`, apart from the builtin ones.
    fn d_type(&mut self) -> Result<(Type, bool)> {
        match self.peek_second().ok_or(NotDemangled)? {
            b'p' => {
                // A pack that is known expands in place; one that is not stays.
                let pattern = self.after(2)?;
                if pattern.is_pack() {
                    return Ok((pattern, true));
                }
                Ok((pattern.qualified("..."), true))
            }
            b't' | b'T' => Ok((self.decltype()?, true)),
            b'v' => self.vector().map(|t| (t, true)),
            b'o' => {
                self.rest = &self.rest[2..];
                Ok((self.function()?.qualified(" noexcept"), true))
            }
            b'O' => {
                self.rest = &self.rest[2..];
                let condition = self.expression()?;
                self.expect(b"E")?;
                Ok((self.function()?.qualified(&format!(" noexcept({condition})")), true))
            }
            b'x' => Ok((self.after(2)?, true)),
            _ => Err(NotDemangled),
        }
    }

    /// `Dv <number> _ <type>`
    fn vector(&mut self) -> Result<Type> {
        self.expect(b"Dv")?;
        let size = if self.accept(b"_") { self.expression()? } else { self.number()?.to_string() };
        self.expect(b"_")?;
        Ok(self.type_()?.qualified(&format!(" __vector({size})")))
    }

    /// `Dt|DT <expression> E`
    pub(super) fn decltype(&mut self) -> Result<Type> {
        self.rest = self.rest.get(2..).ok_or(NotDemangled)?;
        let expression = self.expression()?;
        self.expect(b"E")?;
        Ok(Type::plain(format!("decltype ({expression})")))
    }

    /// `A [<number> | <expression>] _ <type>`
    fn array(&mut self) -> Result<Type> {
        self.expect(b"A")?;
        let dimension = match self.peek() {
            Some(b'_') => String::new(),
            Some(b'0'..=b'9') => self.number()?.to_string(),
            _ => self.expression()?,
        };
        self.expect(b"_")?;
        let element = self.type_()?;
        if element.is_pack() {
            return Err(NotDemangled);
        }
        // In `int [2][3]` the outer dimension comes first.
        let inner = element.right.trim_start();
        Ok(Type {
            left: element.left,
            right: format!(" [{dimension}]{inner}"),
            shape: Shape::Array,
            ..Type::default()
        })
    }

    /// `F [Y] <return type> <parameters> [R|O] E`
    fn function(&mut self) -> Result<Type> {
        self.expect(b"F")?;
        self.accept(b"Y");
        let returned = self.type_()?;
        let parameters = self.parameters()?;
        let reference = if self.accept(b"R") {
            " &"
        } else if self.accept(b"O") {
            " &&"
        } else {
            ""
        };
        self.expect(b"E")?;
        let left = if returned.left.is_empty() { String::new() } else { format!("{} ", returned.left) };
        Ok(Type {
            left,
            right: format!("({parameters}){}{reference}", returned.right),
            shape: Shape::Function,
            ..Type::default()
        })
    }

    /// `M <class> <member type>`
    fn pointer_to_member(&mut self) -> Result<Type> {
        let class = self.after(1)?.text();
        let member = self.type_()?;
        let declarator =
            if member.shape == Shape::Function { format!("{class}::*") } else { format!(" {class}::*") };
        Ok(member.map(&|t| t.with_declarator(&declarator)))
    }

    /// `U <source-name> [template-args] <type>`
    fn vendor_qualified(&mut self) -> Result<(Type, bool)> {
        self.take()?;
        let mut qualifier = format!(" {}", self.source_name()?);
        if self.peek() == Some(b'I') {
            qualifier += &self.template_args(false)?;
        }
        Ok((self.type_()?.map(&|t| t.qualified(&qualifier)), true))
    }

    /// `T_`, `T0_`, `TL0__`, …
    pub(super) fn template_param(&mut self) -> Result<Type> {
        self.expect(b"T")?;
        if self.accept(b"L") {
            self.index(false)?;
        }
        let index = self.index(false)?;
        if self.in_lambda {
            return Ok(Type::plain(format!("auto:{}", index + 1)));
        }
        match self.template_args.get(index) {
            Some(arg) if !self.forward_references => {
                let arg = arg.clone();
                self.pay_for(arg.len())?;
                Ok(arg)
            }
            // The arguments follow the conversion operator; find them ahead.
            _ if self.forward_references => self.argument_ahead(index),
            _ => Err(NotDemangled),
        }
    }

    /// The argument that a conversion operator's type refers to: they follow at
    /// the next `I` of this name. Only a target of `T_` itself is understood
    /// (what `operator T()` is); others stay mangled.
    fn argument_ahead(&mut self, index: usize) -> Result<Type> {
        let rest = self.rest;
        if self.peek() != Some(b'I') {
            return Err(NotDemangled);
        }
        let substitutions = self.substitutions.len();
        self.forward_references = false;
        self.substitutions.push(Type::default());
        let args = std::mem::take(&mut self.template_args);
        let parsed = self.template_args(true);
        let ahead = std::mem::replace(&mut self.template_args, args);
        self.substitutions.truncate(substitutions);
        self.forward_references = true;
        parsed?;
        self.rest = rest;
        ahead.into_iter().nth(index).ok_or(NotDemangled)
    }

    /// `S_`, `S0_`, `Sa`, `Ss`, …; never `St`.
    pub(super) fn substitution(&mut self) -> Result<Type> {
        self.expect(b"S")?;
        let name = match self.peek().ok_or(NotDemangled)? {
            b'a' => "std::allocator",
            b'b' => "std::basic_string",
            b's' => "std::string",
            b'i' => "std::istream",
            b'o' => "std::ostream",
            b'd' => "std::iostream",
            _ => {
                let index = self.index(true)?;
                let found = self.substitutions.get(index).ok_or(NotDemangled)?.clone();
                self.pay_for(found.len())?;
                return Ok(found);
            }
        };
        self.take()?;
        let mut text = name.to_owned();
        let mut tagged = false;
        while self.accept(b"B") {
            text = format!("{text}[abi:{}]", self.source_name()?);
            tagged = true;
        }
        let made = Type::plain(text);
        if tagged {
            self.remember(made.clone())?;
        }
        Ok(made)
    }
}

pub(super) fn builtin_letter(code: u8) -> Option<&'static str> {
    Some(match code {
        b'v' => "void",
        b'w' => "wchar_t",
        b'b' => "bool",
        b'c' => "char",
        b'a' => "signed char",
        b'h' => "unsigned char",
        b's' => "short",
        b't' => "unsigned short",
        b'i' => "int",
        b'j' => "unsigned int",
        b'l' => "long",
        b'm' => "unsigned long",
        b'x' => "long long",
        b'y' => "unsigned long long",
        b'n' => "__int128",
        b'o' => "unsigned __int128",
        b'f' => "float",
        b'd' => "double",
        b'e' => "long double",
        b'g' => "__float128",
        b'z' => "...",
        _ => return None,
    })
}
