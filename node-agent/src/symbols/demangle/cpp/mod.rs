//! C++ names by the Itanium ABI, in one pass.
//!
//! Every production is chosen by the next bytes and parsed once, without going
//! back, and each step spends fuel: one unit for the step and one for each 16
//! bytes of text it makes. So time and memory are bounded whatever the name is,
//! which parsers that try alternatives in turn cannot promise (one of 60 bytes
//! takes them minutes). The price: some rare expressions in template arguments
//! are not understood, and their names stay mangled.
//!
//! The text is what `c++filt -p -i` prints: no parameters, no return type.
//! Grammar: <https://itanium-cxx-abi.github.io/cxx-abi/abi.html#mangling>.

mod expressions;
mod names;
mod types;

use types::Type;

/// Deepest nesting of productions. The deepest name among the 250,000 of LLVM
/// needs 60; a level takes about a kilobyte of stack.
const MAX_DEPTH: u32 = 160;
/// Steps, and 16-byte units of text, that one name may take.
const FUEL: u32 = 30_000;
/// Longest text of one part of a name, in bytes.
const MAX_TEXT: usize = 4096;
/// Most entries of the substitution table.
const MAX_SUBSTITUTIONS: usize = 1024;

/// The name is not a C++ name, not understood, or too much work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a C++ name that can be demangled within bounds")]
pub struct NotDemangled;

type Result<T> = std::result::Result<T, NotDemangled>;

/// Demangles one C++ name.
///
/// # Errors
/// [`NotDemangled`] for everything that is not a C++ name within the bounds.
pub fn demangle(name: &str) -> Result<String> {
    let mangled = name.strip_prefix("_Z").or_else(|| name.strip_prefix("__Z")).ok_or(NotDemangled)?;
    // A clone that the compiler made (`.cold`, `.isra.0`) is the same function.
    let mangled = mangled.split_once('.').map_or(mangled, |(before, _)| before);
    let mut parser = Parser::new(mangled.as_bytes());
    let text = parser.encoding(Signature::Hide)?;
    if text.is_empty() || text.len() > MAX_TEXT { Err(NotDemangled) } else { Ok(text) }
}

/// Whether the parameters of an encoding are part of its text. They are for
/// a function inside another name, so that two lambdas stay apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signature {
    /// Parsed and shown.
    Show,
    /// Parsed and not shown, as in the address of a member.
    Skip,
    /// Neither: the name ends what is looked at.
    Hide,
}

struct Parser<'a> {
    rest: &'a [u8],
    depth: u32,
    fuel: u32,
    /// What `S_`, `S0_`, … stand for.
    substitutions: Vec<Type>,
    /// What `T_`, `T0_`, … stand for: the arguments of the encoding's name.
    template_args: Vec<Type>,
    /// In the type of a conversion operator `T_` precedes its arguments.
    forward_references: bool,
    /// In a lambda's parameters `T_` is an `auto`.
    in_lambda: bool,
}

impl<'a> Parser<'a> {
    fn new(mangled: &'a [u8]) -> Self {
        Self {
            rest: mangled,
            depth: 0,
            fuel: FUEL,
            substitutions: Vec::new(),
            template_args: Vec::new(),
            forward_references: false,
            in_lambda: false,
        }
    }

    /// Runs one production a level deeper, within the bounds.
    fn nested<T>(&mut self, production: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(NotDemangled);
        }
        self.spend(1)?;
        self.depth += 1;
        let result = production(self);
        self.depth -= 1;
        result
    }

    fn spend(&mut self, units: u32) -> Result<()> {
        self.fuel = self.fuel.checked_sub(units).ok_or(NotDemangled)?;
        Ok(())
    }

    /// Pays for text that was made.
    fn made(&mut self, text: String) -> Result<String> {
        self.pay_for(text.len())?;
        Ok(text)
    }

    fn pay_for(&mut self, bytes: usize) -> Result<()> {
        if bytes > MAX_TEXT {
            return Err(NotDemangled);
        }
        let units = u32::try_from(bytes / 16).map_err(|_| NotDemangled)?;
        self.spend(units)
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn peek_second(&self) -> Option<u8> {
        self.rest.get(1).copied()
    }

    fn take(&mut self) -> Result<u8> {
        let (first, rest) = self.rest.split_first().ok_or(NotDemangled)?;
        self.rest = rest;
        Ok(*first)
    }

    fn accept(&mut self, prefix: &[u8]) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, prefix: &[u8]) -> Result<()> {
        if self.accept(prefix) { Ok(()) } else { Err(NotDemangled) }
    }

    /// A decimal number.
    fn number(&mut self) -> Result<usize> {
        let digits = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 || digits > 9 {
            return Err(NotDemangled);
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        Ok(number.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
    }

    /// `_` is 0, `0_` is 1, `1_` is 2, …
    fn index(&mut self, base36: bool) -> Result<usize> {
        if self.accept(b"_") {
            return Ok(0);
        }
        let radix = if base36 { 36 } else { 10 };
        let mut value = 0usize;
        for _ in 0..6 {
            let byte = self.take()?;
            if byte == b'_' {
                return Ok(value + 1);
            }
            if byte.is_ascii_lowercase() {
                return Err(NotDemangled);
            }
            let digit = (byte as char).to_digit(radix).ok_or(NotDemangled)?;
            value = value * radix as usize + digit as usize;
        }
        Err(NotDemangled)
    }

    fn remember(&mut self, substitution: Type) -> Result<()> {
        if self.substitutions.len() >= MAX_SUBSTITUTIONS {
            return Err(NotDemangled);
        }
        self.pay_for(substitution.len())?;
        self.substitutions.push(substitution);
        Ok(())
    }

    /// `<encoding>`: a function with its signature, a variable, or a thing that
    /// the compiler made for one.
    fn encoding(&mut self, signature: Signature) -> Result<String> {
        self.nested(|p| {
            if let Some(special) = p.special_name()? {
                return p.made(special);
            }
            let outer_args = std::mem::take(&mut p.template_args);
            let name = p.name(true)?;
            let text = match signature {
                Signature::Hide => name.text,
                Signature::Skip => {
                    let text = name.text.clone();
                    p.with_signature(name)?;
                    text
                }
                Signature::Show => p.with_signature(name)?,
            };
            p.template_args = outer_args;
            p.made(text)
        })
    }

    fn with_signature(&mut self, name: names::Name) -> Result<String> {
        if matches!(self.peek(), None | Some(b'E')) {
            return Ok(name.text);
        }
        if name.has_return_type {
            self.type_()?;
        }
        let parameters = self.parameters()?;
        Ok(format!("{}({parameters}){}", name.text, name.qualifiers))
    }

    /// The types up to the end of an encoding or function type, as text.
    fn parameters(&mut self) -> Result<String> {
        let mut parameters = Vec::new();
        while !matches!(self.peek(), None | Some(b'E')) {
            if matches!(self.rest, [b'R' | b'O', b'E', ..]) {
                break;
            }
            let parameter = self.type_()?.text();
            if !parameter.is_empty() {
                parameters.push(parameter);
            }
        }
        if parameters == ["void"] {
            parameters.clear();
        }
        let text = parameters.join(", ");
        self.made(text)
    }

    /// Virtual tables, guards, thunks and the like.
    fn special_name(&mut self) -> Result<Option<String>> {
        let types: [(&[u8], &str); 4] = [
            (b"TV", "vtable for "),
            (b"TT", "VTT for "),
            (b"TI", "typeinfo for "),
            (b"TS", "typeinfo name for "),
        ];
        for (code, text) in types {
            if self.accept(code) {
                return Ok(Some(format!("{text}{}", self.type_()?.text())));
            }
        }
        let names: [(&[u8], &str); 3] = [
            (b"GV", "guard variable for "),
            (b"TW", "TLS wrapper function for "),
            (b"TH", "TLS init function for "),
        ];
        for (code, text) in names {
            if self.accept(code) {
                return Ok(Some(format!("{text}{}", self.name(false)?.text)));
            }
        }
        if self.accept(b"GTt") {
            return Ok(Some(format!("transaction clone for {}", self.encoding(Signature::Show)?)));
        }
        let kind = match self.rest {
            [b'T', b'h', ..] => "non-virtual thunk to ",
            [b'T', b'v', ..] => "virtual thunk to ",
            [b'T', b'c', ..] => "covariant return thunk to ",
            _ => return Ok(None),
        };
        self.take()?;
        if self.accept(b"c") {
            self.call_offset()?;
        }
        self.call_offset()?;
        Ok(Some(format!("{kind}{}", self.encoding(Signature::Show)?)))
    }

    fn call_offset(&mut self) -> Result<()> {
        let virtual_ = match self.take()? {
            b'h' => false,
            b'v' => true,
            _ => return Err(NotDemangled),
        };
        for _ in 0..=usize::from(virtual_) {
            self.accept(b"n");
            self.number()?;
            self.expect(b"_")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
