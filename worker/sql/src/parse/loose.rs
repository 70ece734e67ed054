//! A script's tokens as statements, with what Flink's grammar takes and the SQL parser does not put right: `>>` that closes two
//! types, intervals with a sign, a precision or a unit in the plural, and hints, which the tokenizer takes for comments.

use std::collections::BTreeMap;

use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Whitespace};

use crate::error::{Place, PlanError};
use crate::parse::bounds::check_tokens;
use crate::parse::dialect::FlinkDialect;

/// Units of intervals, in the plural and as the parser takes them.
const PLURALS: [(&str, Keyword, &str); 8] = [
    ("YEARS", Keyword::YEAR, "YEAR"),
    ("QUARTERS", Keyword::QUARTER, "QUARTER"),
    ("MONTHS", Keyword::MONTH, "MONTH"),
    ("WEEKS", Keyword::WEEK, "WEEK"),
    ("DAYS", Keyword::DAY, "DAY"),
    ("HOURS", Keyword::HOUR, "HOUR"),
    ("MINUTES", Keyword::MINUTE, "MINUTE"),
    ("SECONDS", Keyword::SECOND, "SECOND"),
];

/// One statement.
#[derive(Debug)]
pub struct Piece<'s> {
    /// As it is written, from its first token to its last.
    pub text: &'s str,
    /// Without blanks and comments, and without the `;`. Never empty.
    pub tokens: Vec<TokenWithSpan>,
    /// Where it ends.
    pub end: Place,
    /// Byte of the script at which `text` starts.
    start: usize,
}

/// What stands between `/*+` and `*/`, by the place of the token before it.
pub type Hints = BTreeMap<Place, Vec<(String, Place)>>;

/// A script, cut.
#[derive(Debug)]
pub struct Pieces<'s> {
    /// In the order written.
    pub all: Vec<Piece<'s>>,
    /// Of all of them.
    pub hints: Hints,
    /// Where texts start.
    pub lines: Lines<'s>,
}

/// Where each line of a script starts.
#[derive(Debug)]
pub struct Lines<'s> {
    script: &'s str,
    starts: Vec<usize>,
}

impl<'s> Lines<'s> {
    fn new(script: &'s str) -> Self {
        let ends = script.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(ends.map(|(end, _)| end + 1)).collect();
        Self { script, starts }
    }

    /// The byte at a place; the script's end for one beyond it.
    fn byte(&self, at: Location) -> usize {
        let end = self.script.len();
        let Some(&start) = (at.line as usize).checked_sub(1).and_then(|line| self.starts.get(line)) else { return end };
        let column = (at.column as usize).saturating_sub(1);
        self.script[start..].char_indices().nth(column).map_or(end, |(byte, _)| start + byte)
    }
}

impl<'s> Piece<'s> {
    /// What is written between two of its tokens, those themselves left out.
    pub fn between(&self, lines: &Lines<'s>, after: &TokenWithSpan, before: Option<&TokenWithSpan>) -> &'s str {
        let from = lines.byte(after.span.end) - self.start;
        let to = before.map_or(self.text.len(), |token| lines.byte(token.span.start) - self.start);
        self.text.get(from..to).unwrap_or_default()
    }
}

/// Cuts a script at each `;`.
pub fn pieces(script: &str) -> Result<Pieces<'_>, PlanError> {
    let tokens = Tokenizer::new(&FlinkDialect, script)
        .tokenize_with_location()
        .map_err(|error| PlanError::new(error.location, error.message, ""))?;
    check_tokens(&tokens)?;
    let mut cut = Pieces { all: Vec::new(), hints: Hints::new(), lines: Lines::new(script) };
    let mut tokens_of_one: Vec<TokenWithSpan> = Vec::new();
    for token in tokens {
        match token.token {
            Token::SemiColon => cut.end(std::mem::take(&mut tokens_of_one)),
            Token::Whitespace(Whitespace::MultiLineComment(text)) => {
                if let Some(hint) = text.strip_prefix('+') {
                    let before = tokens_of_one.last().map_or(Place::default(), |token| token.span.into());
                    cut.hints.entry(before).or_default().push((hint.to_string(), token.span.into()));
                }
            }
            Token::Whitespace(_) => {}
            Token::ShiftRight => {
                let TokenWithSpan { span: Span { start, end }, .. } = token;
                let middle = Location { column: start.column + 1, ..start };
                tokens_of_one.push(TokenWithSpan { token: Token::Gt, span: Span { start, end: middle } });
                tokens_of_one.push(TokenWithSpan { token: Token::Gt, span: Span { start: middle, end } });
            }
            _ => tokens_of_one.push(token),
        }
    }
    cut.end(tokens_of_one);
    Ok(cut)
}

impl Pieces<'_> {
    fn end(&mut self, mut tokens: Vec<TokenWithSpan>) {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return };
        let (start, end) = (self.lines.byte(first.span.start), last.span.end);
        let text = self.lines.script.get(start..self.lines.byte(end)).unwrap_or_default();
        intervals(&mut tokens);
        self.all.push(Piece { text, tokens, end: end.into(), start });
    }
}

/// `INTERVAL -'5' SECONDS(3)` becomes `INTERVAL '-5' SECOND`.
fn intervals(tokens: &mut Vec<TokenWithSpan>) {
    if !tokens.iter().any(|token| is_word(token, "INTERVAL")) {
        return;
    }
    let mut rest = std::mem::take(tokens).into_iter().peekable();
    while let Some(token) = rest.next() {
        let is_interval = is_word(&token, "INTERVAL");
        tokens.push(token);
        if !is_interval {
            continue;
        }
        let sign = rest.next_if(|token| matches!(token.token, Token::Minus | Token::Plus));
        let is_negative = sign.as_ref().is_some_and(|sign| sign.token == Token::Minus);
        let value = rest.next_if(|token| matches!(token.token, Token::SingleQuotedString(_) | Token::Number(..)));
        let Some(TokenWithSpan { token, span }) = value else {
            tokens.extend(sign);
            continue;
        };
        let (Token::SingleQuotedString(text) | Token::Number(text, _)) = token else { continue };
        let text = match (is_negative, text.strip_prefix('-')) {
            (true, Some(positive)) => positive.to_string(),
            (true, None) => format!("-{text}"),
            (false, _) => text,
        };
        tokens.push(TokenWithSpan { token: Token::SingleQuotedString(text), span });
        while let Some(unit) = rest.next_if(|token| unit(token).is_some()) {
            tokens.extend(unit_of(unit));
            if rest.next_if(|token| token.token == Token::LParen).is_some() {
                // A precision bounds nothing here: an interval holds what it holds.
                while rest.next_if(|token| matches!(token.token, Token::Number(..) | Token::Comma)).is_some() {}
                rest.next_if(|token| token.token == Token::RParen);
            }
            match rest.next_if(|token| is_word(token, "TO")) {
                Some(to) => tokens.push(to),
                None => break,
            }
        }
    }
}

/// The unit that a word is, as the parser takes it.
fn unit(token: &TokenWithSpan) -> Option<(Keyword, &'static str)> {
    let Token::Word(word) = &token.token else { return None };
    let found = PLURALS
        .iter()
        .find(|(plural, _, unit)| word.value.eq_ignore_ascii_case(plural) || word.value.eq_ignore_ascii_case(unit));
    found.filter(|_| word.quote_style.is_none()).map(|(_, keyword, unit)| (*keyword, *unit))
}

fn unit_of(mut token: TokenWithSpan) -> Option<TokenWithSpan> {
    let (keyword, name) = unit(&token)?;
    if let Token::Word(word) = &mut token.token {
        (word.keyword, word.value) = (keyword, name.to_string());
    }
    Some(token)
}

fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(script: &str) -> Vec<String> {
        let cut = pieces(script).unwrap();
        cut.all
            .iter()
            .map(|piece| piece.tokens.iter().map(|token| token.token.to_string()).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn a_script_is_cut_where_a_statement_ends_and_not_in_texts_and_comments() {
        let script = "SET a = b; -- x; y\n;; SELECT 'a;b' /* ; */ FROM `c;d`\n";
        let cut = pieces(script).unwrap();
        let texts: Vec<&str> = cut.all.iter().map(|piece| piece.text).collect();
        assert_eq!(texts, ["SET a = b", "SELECT 'a;b' /* ; */ FROM `c;d`"]);
        assert_eq!(cut.all[1].end, Place { line: 2, column: 35 });
        assert!(pieces("").unwrap().all.is_empty());
        assert!(pieces("-- ä\n").unwrap().all.is_empty());
    }

    #[test]
    fn texts_between_tokens_are_as_written_also_behind_letters_of_several_bytes() {
        let script = "/* ümläut */ SET 'ä' = 's3://ö'; SET b.c-d = 10 s -- x\n";
        let cut = pieces(script).unwrap();
        let piece = &cut.all[0];
        assert_eq!(piece.between(&cut.lines, &piece.tokens[0], Some(&piece.tokens[2])), " 'ä' ");
        let piece = &cut.all[1];
        let equals = piece.tokens.iter().find(|token| token.token == Token::Eq).unwrap();
        assert_eq!(piece.between(&cut.lines, equals, None), " 10 s");
        assert_eq!(piece.between(&cut.lines, &piece.tokens[0], Some(equals)), " b.c-d ");
    }

    #[test]
    fn two_types_may_close_with_one_sign() {
        assert_eq!(tokens("ROW<a ROW<b INT>>"), ["ROW < a ROW < b INT > >"]);
        assert_eq!(tokens("a >>> b >= c"), ["a > > > b >= c"]);
    }

    #[test]
    fn intervals_have_a_sign_a_precision_and_units_in_the_plural() {
        for (written, read) in [
            ("INTERVAL '5' SECONDS", "INTERVAL '5' SECOND"),
            ("interval '5' minutes", "interval '5' MINUTE"),
            ("INTERVAL -'5' HOURS", "INTERVAL '-5' HOUR"),
            ("INTERVAL - '-5' DAY", "INTERVAL '5' DAY"),
            ("INTERVAL 5 WEEKS", "INTERVAL '5' WEEK"),
            ("INTERVAL '10' DAY(3)", "INTERVAL '10' DAY"),
            ("INTERVAL '1.5' SECOND(3, 2) a", "INTERVAL '1.5' SECOND a"),
            ("INTERVAL '1-2' YEARS(4) TO MONTHS", "INTERVAL '1-2' YEAR TO MONTH"),
            ("INTERVAL (a) SECOND", "INTERVAL ( a ) SECOND"),
            ("interval - days", "interval - days"),
            ("days + seconds", "days + seconds"),
        ] {
            assert_eq!(tokens(written), [read], "{written}");
        }
    }

    #[test]
    fn hints_are_known_by_the_token_before_them() {
        let cut = pieces("SELECT /*+ A */ x /* no */ FROM t /*+ B('c') */ /*+ D */").unwrap();
        let at = |column| Place { line: 1, column };
        let texts = |place| cut.hints[&place].iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>();
        assert_eq!(texts(at(1)), [" A "]);
        assert_eq!(texts(at(33)), [" B('c') ", " D "]);
        assert_eq!(cut.hints.len(), 2);
    }
}
