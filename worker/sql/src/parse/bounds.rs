//! How large a script may be, held before anything recursive sees it.
//!
//! Parsing, checking, planning and dropping an expression recurse over it, and a chain such as `a + b + c + …` is as deep as it
//! is long. So its depth is bounded twice: roughly on the tokens, before there is a tree, and exactly on the tree, before it is
//! planned. [`PLANNING_STACK`] holds what is within the bounds.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{Expr, Query, Spanned, Visit, Visitor};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::{Place, PlanError};

/// Bytes of a script. An object of Kubernetes, which carries it, has 1.5 MiB at most.
pub const MAX_SCRIPT: usize = 1 << 20;

/// Words, values and signs of one statement: some hundred bytes of memory each, and milliseconds of planning for a thousand.
pub const MAX_TOKENS: usize = 100_000;

/// How deep an expression may be. The planner needs 4 KiB of stack for each level at worst, as it is built for tests.
pub const MAX_DEPTH: usize = 1_500;

/// What links operands, between two commas. A term of a chain has at most four such tokens, as in `a IS NOT NULL AND`.
const MAX_LINKS: usize = 4 * MAX_DEPTH;

/// Parentheses, CASEs and signs before a value within each other. The SQL parser gives up at 50 and does not say where.
const MAX_NESTING: usize = 45;

/// SELECTs of one statement. Each is a few nodes of a plan, and rules go over the whole plan some dozen times.
const MAX_QUERIES: usize = 200;

/// The stack of a thread that plans: [`MAX_DEPTH`] levels in the planner, and [`MAX_LINKS`] levels of a tree that is refused,
/// with as much again to spare. Only what is used takes memory.
pub const PLANNING_STACK: usize = 64 << 20;

/// Whether a script may be read at all.
pub fn check_script(script: &str) -> Result<(), PlanError> {
    if script.len() <= MAX_SCRIPT {
        return Ok(());
    }
    Err(PlanError::new(
        Place { line: 1, column: 1 },
        format!("the script has {} bytes, and {MAX_SCRIPT} are the most", script.len()),
        "make several jobs of it",
    ))
}

/// Whether the statements that these tokens make are small and flat enough to be parsed.
pub fn check_tokens(tokens: &[TokenWithSpan]) -> Result<(), PlanError> {
    let mut count = 0;
    let mut levels = vec![Level::default()];
    let mut before = true;
    let mut signs = 0;
    for token in tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))) {
        let place = Place::from(token.span);
        count += 1;
        if count > MAX_TOKENS {
            return Err(PlanError::new(
                place,
                format!("the statement has more than {MAX_TOKENS} words, values and signs"),
                "make several statements or jobs of it",
            ));
        }
        let is_operand = is_operand(&token.token);
        let innermost = levels.len() - 1;
        match &token.token {
            Token::SemiColon => {
                count = 0;
                levels = vec![Level::default()];
            }
            Token::LParen | Token::LBracket | Token::LBrace => levels.push(Level::default()),
            Token::RParen | Token::RBracket | Token::RBrace => close(&mut levels),
            Token::Comma => levels[innermost].next(),
            Token::Word(word) if word.keyword == Keyword::CASE => {
                levels.push(Level { is_case: true, ..Level::default() });
            }
            Token::Word(word) if word.keyword == Keyword::END && levels[innermost].is_case => close(&mut levels),
            // Behind an operator they are names.
            Token::Word(word) if is_branch(word.keyword) && levels[innermost].is_case && before => {
                levels[innermost].next();
            }
            // What stands on both sides of these goes on beyond commas.
            Token::Lt => levels[innermost].lasting += 1,
            Token::Word(word) if is_set(word.keyword) => levels[innermost].lasting += 1,
            _ if is_operand => {}
            _ => levels[innermost].links += 1,
        }
        signs = if !before && is_sign(&token.token) { signs + 1 } else { 0 };
        before = is_operand;
        if levels.len() + signs > MAX_NESTING {
            return Err(PlanError::new(
                place,
                format!("more than {MAX_NESTING} parentheses, CASEs and signs are open here"),
                "compute the inner ones in a view, and select from it",
            ));
        }
        if levels.iter().map(Level::depth).sum::<usize>() > MAX_LINKS {
            return Err(too_deep(place));
        }
    }
    Ok(())
}

/// What is open at one point of a statement.
#[derive(Debug, Default)]
struct Level {
    is_case: bool,
    /// Since the last comma.
    links: usize,
    /// Since the level was opened.
    lasting: usize,
    /// Of the deepest level that was closed since the last comma.
    closed: usize,
}

impl Level {
    fn depth(&self) -> usize {
        self.links + self.lasting + self.closed
    }

    fn next(&mut self) {
        (self.links, self.closed) = (0, 0);
    }
}

fn close(levels: &mut Vec<Level>) {
    if levels.len() == 1 {
        return;
    }
    if let (Some(level), Some(around)) = (levels.pop(), levels.last_mut()) {
        around.closed = around.closed.max(level.depth());
        around.links += 1;
    }
}

/// What may stand before a value again and again.
fn is_sign(token: &Token) -> bool {
    matches!(token, Token::Minus | Token::Plus) || matches!(token, Token::Word(word) if word.keyword == Keyword::NOT)
}

fn is_branch(keyword: Keyword) -> bool {
    matches!(keyword, Keyword::WHEN | Keyword::THEN | Keyword::ELSE)
}

fn is_set(keyword: Keyword) -> bool {
    matches!(keyword, Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS)
}

/// Names and values, which link nothing. Of the words that mean something those only that are values, or end one.
fn is_operand(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            word.quote_style.is_some()
                || matches!(
                    word.keyword,
                    Keyword::NoKeyword | Keyword::NULL | Keyword::TRUE | Keyword::FALSE | Keyword::END
                )
        }
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Period
        | Token::RParen
        | Token::RBracket
        | Token::EOF => true,
        _ => false,
    }
}

fn too_deep(place: Place) -> PlanError {
    PlanError::new(
        place,
        format!("the expression is more than {MAX_DEPTH} levels deep here: each operator of a chain is one"),
        "write IN (…) for a chain of OR; else let a function in a worker binary of your own compute it",
    )
}

/// Whether a query is small and flat enough to be planned.
pub fn check_query(query: &Query) -> Result<(), PlanError> {
    measure(query)
}

/// Whether an expression is flat enough to be planned.
pub fn check_expr(expr: &Expr) -> Result<(), PlanError> {
    measure(expr)
}

fn measure(tree: &impl Visit) -> Result<(), PlanError> {
    match tree.visit(&mut Depth::default()) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

#[derive(Default)]
struct Depth {
    exprs: usize,
    queries: usize,
    /// Where the innermost SELECT stands: places of deep expressions cost as much to find as they are deep.
    place: Place,
}

impl Visitor for Depth {
    type Break = Box<PlanError>;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        self.queries += 1;
        self.place = Place::from(query.body.span()).or(self.place);
        if self.queries > MAX_QUERIES {
            return ControlFlow::Break(Box::new(PlanError::new(
                self.place,
                format!("the statement has more than {MAX_QUERIES} SELECTs"),
                "compute in fewer steps, or in several jobs",
            )));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        self.exprs += 1;
        if self.exprs > MAX_DEPTH {
            // Few levels are left, if any.
            return ControlFlow::Break(Box::new(too_deep(Place::from(expr.span()).or(self.place))));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _expr: &Expr) -> ControlFlow<Self::Break> {
        self.exprs -= 1;
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion_sql::sqlparser::tokenizer::Tokenizer;

    use super::*;
    use crate::parse::dialect::FlinkDialect;

    fn checked(text: &str) -> Result<(), PlanError> {
        check_tokens(&Tokenizer::new(&FlinkDialect, text).tokenize_with_location().unwrap())
    }

    #[track_caller]
    fn refused(text: &str) {
        let error = checked(text).expect_err(&text[..text.len().min(60)]);
        assert!(error.line.is_some() && !error.remedy.is_empty(), "{error}");
    }

    #[test]
    fn a_chain_is_as_deep_as_it_is_long_whatever_links_it() {
        let n = MAX_LINKS + 1;
        for text in [
            format!("SELECT a{}", " + a".repeat(n)),
            format!("SELECT a{}", "::INT".repeat(n)),
            format!("SELECT a{}", " IS NULL".repeat(n)),
            format!("SELECT a{}", "[1]".repeat(n)),
            format!("SELECT {}a", "NOT ".repeat(n)),
            format!("SELECT a{}", " + value".repeat(n)),
            format!("SELECT a{}", " + f(a, b)".repeat(n)),
            format!("SELECT a{}", " IS DISTINCT FROM a".repeat(n)),
            format!("SELECT a{}", " + where".repeat(n)),
            format!("SELECT a{} FROM t", " + CASE WHEN a THEN b ELSE c END".repeat(n)),
            format!("SELECT CASE WHEN a{} THEN b END", " + when".repeat(n)),
            format!("SELECT CASE WHEN a THEN b{} END", " + end".repeat(n)),
            format!("SELECT a, b FROM t{}", " UNION ALL SELECT a, b FROM t".repeat(n)),
            format!("CREATE TABLE t (a {}", "ROW<b INT, a ".repeat(n)),
        ] {
            refused(&text);
        }
    }

    #[test]
    fn what_is_wide_is_not_deep() {
        for text in [
            format!("SELECT {}a FROM t", "a + 1, ".repeat(15_000)),
            format!("SELECT a IN ({}1) FROM t", "1, ".repeat(40_000)),
            format!("SELECT CASE {} END FROM t", "WHEN a = 1 THEN 'x' ".repeat(10_000)),
            format!("SELECT f({}1) FROM t", "a.b + 1, ".repeat(10_000)),
            "INSERT INTO o SELECT a + 1 FROM t; ".repeat(20_000),
        ] {
            assert_eq!(checked(&text), Ok(()), "{}", &text[..60]);
        }
    }

    #[test]
    fn a_term_for_each_level_is_few_enough() {
        for term in [" + a", " OR x = 1", " || a", " AND a IS NOT NULL"] {
            assert_eq!(checked(&format!("SELECT a{} FROM t", term.repeat(MAX_DEPTH - 1))), Ok(()), "{term}");
        }
    }

    #[test]
    fn what_is_nested_and_what_is_long_is_refused_with_its_place() {
        refused(&format!("SELECT {}a{}", "(".repeat(60), ")".repeat(60)));
        refused(&format!("SELECT {}1", "1, ".repeat(MAX_TOKENS)));
        assert!(check_script(&" ".repeat(MAX_SCRIPT + 1)).is_err());
        let error = checked(&format!("SELECT a,\n{}a", "(".repeat(60))).expect_err("it is nested");
        assert_eq!(error.line, Some(2));
    }
}
