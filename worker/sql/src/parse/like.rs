//! `CREATE TABLE … LIKE`: what of the other table's declaration becomes part of this one.

use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Token;

use crate::error::PlanError;
use crate::parse::dialect::{ColumnKind, CreateTable};
use crate::parse::statements::{Name, parse_name};
use crate::parse::types::{consume_word, expected};

/// `LIKE table (…)`.
#[derive(Clone, Debug)]
pub struct Like {
    /// The other table.
    pub table: Name,
    /// What is said, in the order written.
    merging: Vec<(Part, Merging)>,
}

/// A part of a declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    All,
    Constraints,
    Distribution,
    Generated,
    Metadata,
    Options,
    Partitions,
    Watermarks,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merging {
    Including,
    Excluding,
    Overwriting,
}

const PARTS: [(&str, Part); 8] = [
    ("ALL", Part::All),
    ("CONSTRAINTS", Part::Constraints),
    ("DISTRIBUTION", Part::Distribution),
    ("GENERATED", Part::Generated),
    ("METADATA", Part::Metadata),
    ("OPTIONS", Part::Options),
    ("PARTITIONS", Part::Partitions),
    ("WATERMARKS", Part::Watermarks),
];

/// Reads what stands from `LIKE` on.
pub fn parse_like(parser: &mut Parser<'_>) -> Result<Like, PlanError> {
    consume_word(parser, "LIKE");
    let table = parse_name(parser)?;
    let mut merging = Vec::new();
    if parser.consume_token(&Token::LParen) {
        while !parser.consume_token(&Token::RParen) {
            let token = parser.next_token();
            let how = [
                ("INCLUDING", Merging::Including),
                ("EXCLUDING", Merging::Excluding),
                ("OVERWRITING", Merging::Overwriting),
            ];
            let word = token.token.to_string();
            let Some((_, how)) = how.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name)) else {
                return Err(expected("INCLUDING, EXCLUDING or OVERWRITING", &token));
            };
            let what = parser.next_token();
            let word = what.token.to_string();
            let Some(&(name, part)) = PARTS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)) else {
                return Err(expected(
                    "ALL, CONSTRAINTS, GENERATED, METADATA, OPTIONS, PARTITIONS or WATERMARKS",
                    &what,
                ));
            };
            if how == Merging::Overwriting
                && matches!(part, Part::All | Part::Constraints | Part::Partitions | Part::Distribution)
            {
                return Err(PlanError::new(
                    token.span,
                    format!("OVERWRITING {name} is not possible"),
                    format!("write INCLUDING {name} or EXCLUDING {name}"),
                ));
            }
            merging.push((part, how));
            let _ = parser.consume_token(&Token::Comma);
        }
    }
    Ok(Like { table, merging })
}

impl Like {
    /// What becomes of a part: what is said of it, else of all, else it is included, and options are overwritten.
    fn of(&self, part: Part) -> Merging {
        let said = |part: Part| self.merging.iter().find(|(of, _)| *of == part).map(|(_, how)| *how);
        let default = if part == Part::Options { Merging::Overwriting } else { Merging::Including };
        said(part).or_else(|| said(Part::All).filter(|how| *how == Merging::Excluding)).unwrap_or(default)
    }

    /// A declaration with what it takes over from another one.
    pub fn merged(&self, base: &CreateTable, own: CreateTable) -> Result<CreateTable, PlanError> {
        let place = own.name.place();
        let twice = |what: String, remedy: &str| PlanError::new(place, what, remedy);
        let mut merged = CreateTable { like: None, columns: Vec::new(), ..own.clone() };
        for column in &base.columns {
            let part = match &column.kind {
                ColumnKind::Physical { .. } => None,
                ColumnKind::Metadata { .. } => Some(Part::Metadata),
                ColumnKind::Computed(_) => Some(Part::Generated),
            };
            let how = part.map_or(Merging::Including, |part| self.of(part));
            let anew = own.columns.iter().any(|own| own.name.value == column.name.value);
            match how {
                Merging::Excluding => {}
                Merging::Overwriting if anew => {}
                _ if anew => {
                    return Err(twice(
                        format!("{} has a column {} already", self.table, column.name.value),
                        "give it another name, or, if it is computed, write OVERWRITING GENERATED",
                    ));
                }
                _ => merged.columns.push(column.clone()),
            }
        }
        merged.columns.extend(own.columns);
        match (self.of(Part::Watermarks), &base.watermark, &own.watermark) {
            (Merging::Including, Some(_), Some(_)) => {
                return Err(twice(
                    format!("{} has a watermark already", self.table),
                    "write EXCLUDING WATERMARKS or OVERWRITING WATERMARKS",
                ));
            }
            (Merging::Including | Merging::Overwriting, Some(watermark), None) => {
                merged.watermark = Some(watermark.clone());
            }
            _ => {}
        }
        if self.of(Part::Constraints) == Merging::Including && !base.primary_key.is_empty() {
            if !own.primary_key.is_empty() {
                return Err(twice(format!("{} has a primary key already", self.table), "write EXCLUDING CONSTRAINTS"));
            }
            merged.primary_key.clone_from(&base.primary_key);
        }
        if self.of(Part::Partitions) == Merging::Including && !base.partitioned.is_empty() {
            if !own.partitioned.is_empty() {
                return Err(twice(format!("{} has partitions already", self.table), "write EXCLUDING PARTITIONS"));
            }
            merged.partitioned.clone_from(&base.partitioned);
        }
        let how = self.of(Part::Options);
        if how != Merging::Excluding {
            merged.options.clear();
            for option in &base.options {
                match own.options.iter().find(|own| own.key == option.key) {
                    Some(own) if how == Merging::Including => {
                        return Err(PlanError::new(
                            own.place,
                            format!("{} has the option '{}' already", self.table, own.key),
                            "write OVERWRITING OPTIONS",
                        ));
                    }
                    Some(_) => {}
                    None => merged.options.push(option.clone()),
                }
            }
            merged.options.extend(own.options);
        }
        Ok(merged)
    }
}
