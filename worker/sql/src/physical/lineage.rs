//! What rows and their columns are, in terms of the sources' columns: identities are made of it.

use arrow::datatypes::Field;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, Result};
use datafusion_expr::Expr;

use crate::identity::{Meaning, fingerprint, list};
use crate::logical::print;

/// What the columns of one expression may mean together, in bytes, before hashes stand for their texts.
const LONGEST_MEANING: usize = 64 << 10;

/// What is no longer than this is as short as its hash.
const LONGEST_NAME: usize = 64;

/// Where rows come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// What each column is.
    pub columns: Vec<Meaning>,
    /// Which rows these are: the table, its windows, its aggregations.
    pub rows: Meaning,
    /// Which of them are kept, on the whole way from the source. State may outlive a change of these: it stays as it is, and what
    /// comes then is filtered the new way.
    pub filters: Vec<String>,
}

impl Lineage {
    /// That of the rows of all these, one after another.
    pub fn union<'l>(all: impl IntoIterator<Item = &'l Self>) -> Self {
        let all: Vec<&Self> = all.into_iter().collect();
        let [first, others @ ..] = all.as_slice() else { return Self::default() };
        if others.is_empty() {
            return (*first).clone();
        }
        let together = |name: &str, of: &dyn Fn(&Self) -> Meaning| {
            let each: Vec<Meaning> = all.iter().map(|lineage| of(lineage)).collect();
            if each.iter().all(|meaning| *meaning == each[0]) && name.is_empty() {
                return each[0].clone();
            }
            let inside = list(&each);
            Meaning::of(|text| {
                let text = text(&inside);
                if text.len() > LONGEST_MEANING {
                    format!("{name}#{}", fingerprint(text))
                } else {
                    format!("{name}({text})")
                }
            })
        };
        let columns = (0..first.columns.len()).map(|column| together("", &|lineage| lineage.columns[column].clone()));
        let mut filters: Vec<String> = Vec::new();
        for filter in all.iter().flat_map(|lineage| &lineage.filters) {
            if !filters.contains(filter) {
                filters.push(filter.clone());
            }
        }
        Self { columns: columns.collect(), rows: together("UNION ALL", &|lineage| lineage.rows.clone()), filters }
    }
}

/// What an expression is whose columns, which `input` names, have these meanings.
pub fn meaning_of(columns: &[&Meaning], expr: &Expr, input: &DFSchema) -> Result<Meaning> {
    let text_of = texts(columns, expr, input, |meaning| &meaning.text)?;
    let column = |column: &Column| {
        let index = input.maybe_index_of_column(column);
        Ok(index.map_or_else(|| column.name().to_string(), &text_of))
    };
    Ok(Meaning { text: print::text(expr, &column)?, before: meaning_before(columns, expr, input)? })
}

/// A text, or a hash of it where it is long: views that join each other double what they mean.
pub fn shortened(name: &str, text: String) -> String {
    if text.len() > LONGEST_MEANING { format!("{name}#{}", fingerprint(&text)) } else { text }
}

/// What stands for each column in an expression's text. Where that would be long it is a hash: a view may name each column of
/// the one below it several times, and a text would grow as fast as that multiplies.
fn texts(
    columns: &[&Meaning],
    expr: &Expr,
    input: &DFSchema,
    text: fn(&Meaning) -> &String,
) -> Result<impl Fn(usize) -> String> {
    let mut length = 0_usize;
    expr.apply(|expr| {
        if let Expr::Column(column) = expr
            && let Some(index) = input.maybe_index_of_column(column)
        {
            length += text(columns[index]).len();
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(move |index: usize| match text(columns[index]) {
        text if length > LONGEST_MEANING && text.len() > LONGEST_NAME => format!("#{}", fingerprint(text)),
        text => text.clone(),
    })
}

/// As DataFusion prints it: so it stands in identities of state format 1.
fn meaning_before(columns: &[&Meaning], expr: &Expr, input: &DFSchema) -> Result<String> {
    let text_of = texts(columns, expr, input, |meaning| &meaning.before)?;
    let expr = expr
        .clone()
        .transform_up(|expr| {
            Ok(match &expr {
                Expr::Column(column) => match input.maybe_index_of_column(column) {
                    Some(index) => Transformed::yes(Expr::Column(Column::new_unqualified(text_of(index)))),
                    None => Transformed::no(expr),
                },
                Expr::Alias(alias) => Transformed::yes(alias.expr.as_ref().clone()),
                // What a division leaves over had the type of both sides then: as a key it is another one now, and is not to be found
                // under the same name.
                Expr::ScalarFunction(call) if print::is_rest(call.func.name()) => Transformed::no(expr),
                _ => Transformed::yes(print::node_as_written(expr)?),
            })
        })
        .data()?;
    Ok(expr.to_string())
}

/// The names of these columns, with commas between.
pub fn names<'f>(fields: impl IntoIterator<Item = &'f Field>) -> String {
    fields.into_iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Schema};
    use datafusion_expr::{col, lit};

    use super::*;
    use crate::logical::exprs::unqualified;

    fn meaning(of_column: &str, expr: &Expr) -> String {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let column = Meaning::same(of_column);
        let meaning = meaning_of(&[&column], expr, &unqualified(&schema).unwrap()).unwrap();
        assert_eq!(meaning.text.len() > LONGEST_MEANING, meaning.before.len() > LONGEST_MEANING);
        meaning.before
    }

    #[test]
    fn a_meaning_is_the_whole_text_until_that_is_long_and_then_no_longer_than_its_expression() {
        assert_eq!(meaning("t.a", &(col("a") + lit(1))), "t.a + Int32(1)");
        let long = "x".repeat(LONGEST_MEANING / 2);
        assert_eq!(meaning(&long, &(col("a") + col("a"))), format!("{long} + {long}"));
        let longer = format!("{long}y");
        let hashed = meaning(&longer, &(col("a") + col("a")));
        assert!(hashed.len() < 100, "{hashed}");
        assert_ne!(hashed, meaning(&format!("{long}z"), &(col("a") + col("a"))), "it still says which");
        let mut text = "t.a".to_string();
        for _ in 0..60 {
            text = meaning(&text, &(col("a") + col("a")));
        }
        assert!(text.len() <= LONGEST_MEANING + 10, "{}", text.len());
    }

    #[test]
    fn rows_of_several_queries_mean_all_of_them_and_a_column_that_is_the_same_in_all_means_itself() {
        let of = |column: &str, filter: &str| Lineage {
            columns: vec![Meaning::same("t.k"), Meaning::same(column)],
            rows: Meaning::same("FROM t"),
            filters: vec!["(t.k > 1)".to_string(), filter.to_string()],
        };
        let union = Lineage::union([&of("t.a", "x"), &of("t.b", "y")]);
        assert_eq!(union.columns, [Meaning::same("t.k"), Meaning::same("(t.a, t.b)")]);
        assert_eq!(union.rows, Meaning::same("UNION ALL(FROM t, FROM t)"));
        assert_eq!(union.filters, ["(t.k > 1)", "x", "y"]);
        assert_eq!(Lineage::union([&of("t.a", "x")]), of("t.a", "x"));
    }
}
