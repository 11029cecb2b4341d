//! `<expression>`: what template arguments and `decltype` may hold.

use super::names::operator_symbol;
use super::types::builtin_letter;
use super::{NotDemangled, Parser, Result, Signature};

impl Parser<'_> {
    /// `L <type> <value> E` and `L_Z <encoding> E`
    pub(super) fn literal(&mut self) -> Result<String> {
        self.expect(b"L")?;
        if self.accept(b"_Z") || self.accept(b"Z") {
            let text = self.encoding(Signature::Show)?;
            self.expect(b"E")?;
            return Ok(text);
        }
        let code = self.peek().ok_or(NotDemangled)?;
        let builtin = builtin_letter(code).is_some();
        let type_text = self.type_()?.text();
        let negative = self.accept(b"n");
        let digits = self.rest.iter().take_while(|b| b.is_ascii_alphanumeric() && **b != b'E').count();
        let (value, rest) = self.rest.split_at(digits);
        self.rest = rest;
        self.expect(b"E")?;
        let value = str::from_utf8(value).map_err(|_| NotDemangled)?;
        let sign = if negative { "-" } else { "" };
        let text = match code {
            b'b' if value == "0" => "false".to_owned(),
            b'b' if value == "1" => "true".to_owned(),
            b'i' => format!("{sign}{value}"),
            b'j' => format!("{sign}{value}u"),
            b'l' => format!("{sign}{value}l"),
            b'm' => format!("{sign}{value}ul"),
            b'x' => format!("{sign}{value}ll"),
            b'y' => format!("{sign}{value}ull"),
            b'f' | b'd' | b'e' | b'g' if builtin => format!("({type_text})[{value}]"),
            _ if value.is_empty() => type_text,
            _ => format!("({type_text}){sign}{value}"),
        };
        self.made(text)
    }

    pub(super) fn expression(&mut self) -> Result<String> {
        self.nested(|p| {
            let text = p.expression_by_code()?;
            p.made(text)
        })
    }

    fn expression_by_code(&mut self) -> Result<String> {
        self.accept(b"gs");
        match self.rest {
            [b'L', ..] => self.literal(),
            [b'T', ..] => Ok(self.template_param()?.text()),
            [b'f', b'p' | b'L', ..] => self.function_param(),
            [b'0'..=b'9', ..] => {
                let name = self.source_name()?;
                self.with_template_args(name)
            }
            [b's', b'r', ..] => self.scope(),
            [b'o', b'n', ..] => {
                self.rest = &self.rest[2..];
                let code = self.rest.get(..2).ok_or(NotDemangled)?;
                let symbol = operator_symbol(code).ok_or(NotDemangled)?;
                self.rest = &self.rest[2..];
                self.with_template_args(format!("operator{symbol}"))
            }
            [b's', b't', ..] => self.of_type("sizeof"),
            [b'a', b't', ..] => self.of_type("alignof"),
            [b't', b'i', ..] => self.of_type("typeid"),
            [b's', b'z', ..] => self.of_expression("sizeof"),
            [b'a', b'z', ..] => self.of_expression("alignof"),
            [b'n', b'x', ..] => self.of_expression("noexcept"),
            [b's', b'Z', ..] => self.pack_size(),
            [b's', b'p', ..] => {
                self.rest = &self.rest[2..];
                Ok(format!("({})...", self.expression()?))
            }
            [b'c', b'v', ..] => self.conversion(),
            [b'd' | b's' | b'c' | b'r', b'c', ..] => self.named_cast(),
            [b'c', b'l', ..] => {
                self.rest = &self.rest[2..];
                let callee = self.expression()?;
                let arguments = self.expressions()?;
                Ok(format!("{callee}({arguments})"))
            }
            [b't', b'l', ..] => {
                self.rest = &self.rest[2..];
                let made = self.type_()?.text();
                let items = self.expressions()?;
                Ok(format!("{made}{{{items}}}"))
            }
            [b'i', b'l', ..] => {
                self.rest = &self.rest[2..];
                let items = self.expressions()?;
                Ok(format!("{{{items}}}"))
            }
            [b'd', b't', ..] => self.member("."),
            [b'p', b't', ..] => self.member("->"),
            _ => self.operation(),
        }
    }

    fn with_template_args(&mut self, name: String) -> Result<String> {
        if self.peek() == Some(b'I') { Ok(name + &self.template_args(false)?) } else { Ok(name) }
    }

    /// `<expression>… E`
    fn expressions(&mut self) -> Result<String> {
        let mut texts = Vec::new();
        while !self.accept(b"E") {
            texts.push(self.expression()?);
        }
        Ok(texts.join(", "))
    }

    /// `fp [qualifiers] [number] _` and `fL <number> p …`
    fn function_param(&mut self) -> Result<String> {
        self.take()?;
        if self.accept(b"L") {
            self.number()?;
        }
        self.expect(b"p")?;
        self.cv_qualifiers();
        if self.accept(b"T") {
            return Ok("this".to_owned());
        }
        Ok(format!("{{parm#{}}}", self.index(false)? + 1))
    }

    /// `sr <type> <name>`; of the longer form `srN <type> <level>… E <name>`
    /// only what reads as a nested name.
    fn scope(&mut self) -> Result<String> {
        self.expect(b"sr")?;
        let scope = self.type_()?.text();
        let name = if self.accept(b"on") {
            let code = self.rest.get(..2).ok_or(NotDemangled)?;
            let symbol = operator_symbol(code).ok_or(NotDemangled)?;
            self.rest = &self.rest[2..];
            format!("operator{symbol}")
        } else {
            self.source_name()?
        };
        let name = self.with_template_args(name)?;
        Ok(format!("{scope}::{name}"))
    }

    fn of_type(&mut self, word: &str) -> Result<String> {
        self.rest = &self.rest[2..];
        Ok(format!("{word} ({})", self.type_()?.text()))
    }

    fn of_expression(&mut self, word: &str) -> Result<String> {
        self.rest = &self.rest[2..];
        Ok(format!("{word} ({})", self.expression()?))
    }

    fn pack_size(&mut self) -> Result<String> {
        self.rest = &self.rest[2..];
        if self.peek() == Some(b'T') {
            let parameter = self.template_param()?;
            return Ok(match parameter.pack_len() {
                Some(length) => length.to_string(),
                None => format!("sizeof...({})", parameter.text()),
            });
        }
        Ok(format!("sizeof...({})", self.function_param()?))
    }

    /// `cv <type> <expression>` and `cv <type> _ <expression>… E`
    fn conversion(&mut self) -> Result<String> {
        self.rest = &self.rest[2..];
        let target = self.type_()?.text();
        let operand = if self.accept(b"_") { self.expressions()? } else { self.expression()? };
        Ok(format!("({target})({operand})"))
    }

    fn named_cast(&mut self) -> Result<String> {
        let word = match self.take()? {
            b'd' => "dynamic_cast",
            b's' => "static_cast",
            b'c' => "const_cast",
            _ => "reinterpret_cast",
        };
        self.take()?;
        let target = self.type_()?.text();
        Ok(format!("{word}<{target}>({})", self.expression()?))
    }

    fn member(&mut self, arrow: &str) -> Result<String> {
        self.rest = &self.rest[2..];
        let object = self.expression()?;
        let name = self.expression()?;
        Ok(format!("{object}{arrow}{name}"))
    }

    fn operation(&mut self) -> Result<String> {
        let code: [u8; 2] = self.rest.get(..2).and_then(|c| c.try_into().ok()).ok_or(NotDemangled)?;
        let symbol = operator_symbol(&code).ok_or(NotDemangled)?;
        self.rest = &self.rest[2..];
        match &code {
            b"ps" | b"ng" | b"ad" | b"de" | b"co" | b"nt" => {
                let is_plain_member =
                    matches!(self.rest, [b'L', b'_', b'Z', b'N', next, ..] if !b"KVrRO".contains(next));
                if &code == b"ad" && is_plain_member {
                    // The address of a member is written without its parameters.
                    self.rest = &self.rest[3..];
                    let member = self.encoding(Signature::Skip)?;
                    self.expect(b"E")?;
                    return Ok(format!("&{member}"));
                }
                let operand = self.expression()?;
                Ok(format!("{symbol}({operand})"))
            }
            b"pp" | b"mm" => {
                let prefix = self.accept(b"_");
                let operand = self.expression()?;
                Ok(if prefix { format!("{symbol}({operand})") } else { format!("({operand}){symbol}") })
            }
            b"qu" => {
                let condition = self.expression()?;
                let yes = self.expression()?;
                let no = self.expression()?;
                Ok(format!("({condition})?({yes}) : ({no})"))
            }
            b"ix" => {
                let object = self.expression()?;
                Ok(format!("({object})[{}]", self.expression()?))
            }
            b"nw" | b"na" | b"dl" | b"da" | b"aw" => Err(NotDemangled),
            _ => {
                let left = self.expression()?;
                let right = self.expression()?;
                let text = format!("({left}){symbol}({right})");
                // A `>` would end the template arguments around it.
                Ok(if &code == b"gt" { format!("({text})") } else { text })
            }
        }
    }
}
