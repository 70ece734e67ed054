//! Holds every row of `tests/data/answers.jsonl` and `nested.jsonl`, which Flink answered, against Weir: as an expression over the columns of a
//! batch, on the way that a query goes, and as an expression of constants, which is folded. What may differ stands in
//! `tests/data/differences.txt`, a line each as a failure prints it, under reasons that `docs/sql.md` gives.
//! `tests/answers/generate.sh` makes the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    RecordBatch, StringArray, Time32MillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Schema, TimeUnit,
};
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_expr::LogicalPlan;
use datafusion_sql::sqlparser::ast::Ident;
use datafusion_sql::sqlparser::ast::{self, SetExpr, VisitMut, VisitorMut};
use datafusion_sql::sqlparser::parser::Parser;

use super::Functions;
use super::pattern::{DAY, civil, days_of};
use crate::error::{Place, PlanError};
use crate::logical::exprs::{physical, plan_expr, plan_query, unqualified};
use crate::logical::optimize::{analyze, optimize};
use crate::names::catalog::{Column, Names, Origin, Table};
use crate::parse::check::{check_expr, check_query};
use crate::parse::dialect::{CreateTable, FlinkDialect};
use crate::parse::loose::pieces;
use crate::parse::statements::Name;
use crate::parse::types::{flink_name, parse_type};

/// Java's functions of mathematics and this machine's may round the last bit differently.
const LAST_BIT: [&str; 18] = [
    "SIN(", "COS(", "TAN(", "COT(", "ASIN(", "ACOS(", "ATAN(", "ATAN2(", "SINH(", "COSH(", "TANH(", "EXP(", "LN(",
    "LOG10(", "LOG2(", "LOG(", "POWER(", "POW(",
];

/// What an expression comes to.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    /// It is not taken.
    Refused(String),
    /// It is taken, and fails at the row.
    Fails(String),
    /// The type, and the value's text; none for NULL.
    Gives(String, Option<String>),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "refused ({why})"),
            Self::Fails(why) => write!(f, "fails ({why})"),
            Self::Gives(data_type, None) => write!(f, "{data_type} NULL"),
            Self::Gives(data_type, Some(value)) => write!(f, "{data_type} {value:?}"),
        }
    }
}

/// A row of the table.
struct Asked {
    sql: String,
    /// Type and value of each column.
    columns: Vec<(String, Option<String>)>,
    answer: Answer,
}

impl Asked {
    fn read(line: &str) -> Self {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |value: &serde_json::Value| value.as_str().map(ToString::to_string);
        let columns = ('a'..='z')
            .map_while(|name| row.get(name.to_string()))
            .map(|column| (text(&column[0]).unwrap(), text(&column[1])))
            .collect();
        let answer = match (row.get("refused"), row.get("fails")) {
            (Some(why), _) => Answer::Refused(text(why).unwrap()),
            (_, Some(why)) => Answer::Fails(text(why).unwrap()),
            _ => Answer::Gives(text(&row["type"]).unwrap(), text(&row["value"])),
        };
        Self { sql: text(&row["sql"]).unwrap(), columns, answer }
    }

    /// Rows with the same expression and types go together.
    fn kind(&self) -> (&str, Vec<&str>) {
        (&self.sql, self.columns.iter().map(|(data_type, _)| data_type.as_str()).collect())
    }

    /// Expression and values, as a difference is listed.
    fn line(&self) -> String {
        let mut out = self.sql.clone();
        for (name, (data_type, value)) in ('a'..='z').zip(&self.columns) {
            let _ = match value {
                Some(value) => write!(out, "  {name}={data_type} {value:?}"),
                None => write!(out, "  {name}={data_type} NULL"),
            };
        }
        out
    }

    /// Whether Weir's answer is Flink's.
    fn agrees(&self, found: &Answer) -> bool {
        match (&self.answer, found) {
            (Answer::Refused(_), Answer::Refused(_)) | (Answer::Fails(_), Answer::Fails(_)) => true,
            (Answer::Gives(data_type, value), Answer::Gives(found_type, found)) => {
                let data_type = weir_type(data_type);
                data_type.as_ref().map(flink_name).as_deref() == Some(found_type.as_str())
                    && match (value, found) {
                        (None, None) => true,
                        (Some(value), Some(found)) => self.same_value(&data_type.unwrap(), value, found),
                        _ => false,
                    }
            }
            _ => false,
        }
    }

    fn same_value(&self, data_type: &DataType, expected: &str, found: &str) -> bool {
        let float = |text: &str| text.parse::<f64>().unwrap();
        match data_type {
            DataType::Float32 => {
                let (expected, found): (f32, f32) = (expected.parse().unwrap(), found.parse().unwrap());
                expected.is_nan() && found.is_nan() || expected.to_bits() == found.to_bits()
            }
            DataType::Float64 => {
                let (expected, found) = (float(expected), float(found));
                let is_close = LAST_BIT.iter().any(|name| self.sql.contains(name))
                    && (expected - found).abs() <= 2.0 * f64::EPSILON * expected.abs().max(found.abs());
                expected.is_nan() && found.is_nan() || expected.to_bits() == found.to_bits() || is_close
            }
            // Java writes years of more than four digits with a sign.
            DataType::Timestamp(..) | DataType::Date32 => expected.trim_start_matches('+') == found,
            _ => expected == found,
        }
    }
}

/// A type of Flink as it is kept here; none for one that there is not.
fn weir_type(text: &str) -> Option<DataType> {
    let mut parser = Parser::new(&FlinkDialect).try_with_sql(text).unwrap();
    parse_type(&mut parser).ok().map(|(data_type, _)| data_type)
}

/// `12:34:56.789` in nanoseconds.
fn clock(text: &str) -> i64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = whole.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap());
    seconds * 1_000_000_000 + format!("{fraction:0<9}").parse::<i64>().unwrap()
}

/// `2024-02-29` in days.
fn days(text: &str) -> i64 {
    let parts: Vec<i64> = text.trim_start_matches(['-', '+']).split('-').map(|part| part.parse().unwrap()).collect();
    days_of(if text.starts_with('-') { -parts[0] } else { parts[0] }, parts[1], parts[2])
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn unscaled(text: &str, scale: i8) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<width$}", width = scale as usize).parse().unwrap()
}

/// Texts of the table as a column.
fn column(data_type: &DataType, values: &[Option<&str>]) -> ArrayRef {
    fn each<T>(values: &[Option<&str>], read: impl Fn(&str) -> T) -> Vec<Option<T>> {
        values.iter().map(|value| value.map(&read)).collect()
    }
    match data_type {
        DataType::Boolean => Arc::new(BooleanArray::from(each(values, |text| text == "true"))),
        DataType::Float32 => Arc::new(Float32Array::from(each(values, |text| text.parse().unwrap()))),
        DataType::Float64 => Arc::new(Float64Array::from(each(values, |text| text.parse().unwrap()))),
        DataType::Utf8 => Arc::new(StringArray::from(values.to_vec())),
        DataType::Binary => {
            let bytes = each(values, |text| {
                (0..text.len() / 2)
                    .map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap())
                    .collect::<Vec<u8>>()
            });
            Arc::new(bytes.into_iter().collect::<BinaryArray>())
        }
        DataType::Decimal128(precision, scale) => {
            let numbers = Decimal128Array::from(each(values, |text| unscaled(text, *scale)));
            Arc::new(numbers.with_precision_and_scale(*precision, *scale).unwrap())
        }
        DataType::Date32 => Arc::new(Date32Array::from(each(values, |text| i32::try_from(days(text)).unwrap()))),
        DataType::Time32(_) => {
            let millis = each(values, |text| i32::try_from(clock(text) / 1_000_000).unwrap());
            Arc::new(Time32MillisecondArray::from(millis))
        }
        DataType::Timestamp(unit, _) => {
            let ticks = each(values, |text| {
                let (date, time) = text.split_once(' ').unwrap();
                let per_second = per_second(*unit);
                days(date) * DAY / 1_000 * per_second + clock(time) / (1_000_000_000 / per_second)
            });
            cast(&arrow::array::Int64Array::from(ticks), data_type).unwrap()
        }
        _ => {
            let numbers = arrow::array::Int64Array::from(each(values, |text| text.parse().unwrap()));
            cast(&numbers, data_type).unwrap()
        }
    }
}

/// A column as texts, one for each value.
fn texts(values: &ArrayRef) -> Vec<Option<String>> {
    let date = |days: i64| {
        let (year, month, day) = civil(days);
        format!("{year:04}-{month:02}-{day:02}")
    };
    let time = |nanos: i64| {
        let seconds = nanos / 1_000_000_000;
        let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let fraction = format!("{:09}", nanos % 1_000_000_000);
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { text } else { format!("{text}.{fraction}") }
    };
    let ticks = |row: usize| cast(values, &DataType::Int64).unwrap().as_primitive::<Int64Type>().value(row);
    let text = |row: usize| match values.data_type() {
        DataType::Boolean => values.as_boolean().value(row).to_string(),
        DataType::Int8 => values.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::Int16 => values.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => values.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Float32 => format!("{:?}", values.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => format!("{:?}", values.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => values.as_string::<i32>().value(row).to_string(),
        DataType::Binary => values.as_binary::<i32>().value(row).iter().fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        }),
        DataType::Decimal128(..) => values.as_primitive::<Decimal128Type>().value_as_string(row),
        DataType::Date32 => date(i64::from(values.as_primitive::<Date32Type>().value(row))),
        DataType::Time32(_) => {
            let millis = cast(values, &DataType::Int32).unwrap();
            time(i64::from(millis.as_primitive::<Int32Type>().value(row)) * 1_000_000)
        }
        DataType::Timestamp(unit, _) => {
            let (ticks, per_second) = (ticks(row), per_second(*unit));
            let seconds = ticks.div_euclid(per_second);
            let nanos = ticks.rem_euclid(per_second) * (1_000_000_000 / per_second);
            format!(
                "{} {}",
                date(seconds.div_euclid(DAY / 1_000)),
                time(seconds.rem_euclid(DAY / 1_000) * 1_000_000_000 + nanos)
            )
        }
        DataType::Int64 => ticks(row).to_string(),
        other => format!("{other}"),
    };
    (0..values.len()).map(|row| (!values.is_null(row)).then(|| text(row))).collect()
}

/// Plans `SELECT sql FROM t` as a query is planned, and gives its one expression over the columns.
fn queried(sql: &str, schema: &Schema) -> Result<datafusion_expr::Expr, PlanError> {
    let mut names = Names::new(Functions::builtin());
    let schema = Arc::new(schema.clone());
    names.add_table(Table {
        name: "t".to_string(),
        serial: 0,
        declared: Arc::new(CreateTable::printing(Name { parts: vec![Ident::new("t")] }, Place::default())),
        place: Place::default(),
        columns: (0..schema.fields().len())
            .map(|index| Column { origin: Origin::Physical(index), time: None })
            .collect(),
        schema: Arc::clone(&schema),
        physical: schema,
        metadata: std::collections::BTreeMap::new(),
        watermark: None,
        primary_key: Vec::new(),
        options: Vec::new(),
        column_places: Vec::new(),
        as_of: None,
    });
    let text = format!("SELECT {sql} AS answer, id FROM t");
    let tokens = pieces(&text)?.all.remove(0).tokens;
    let mut parser = Parser::new(&FlinkDialect).with_tokens_with_locations(tokens);
    let mut query = parser
        .parse_query()
        .and_then(|query| {
            parser.expect_token(&datafusion_sql::sqlparser::tokenizer::Token::EOF)?;
            Ok(query)
        })
        .map_err(|error| PlanError::from_parser(&error))?;
    check_query(&mut query, names.functions(), Place::default())?;
    let plan = plan_query(*query, &names, Place::default())?;
    let plan = optimize(analyze(plan, Place::default())?, Place::default())?;
    // Common parts of an expression are computed below it; here they are put back.
    let mut expr: Option<datafusion_expr::Expr> = None;
    let mut below = &plan;
    while let LogicalPlan::Projection(projection) = below {
        expr = Some(match expr {
            None => projection.expr[0].clone(),
            Some(above) => above
                .transform_up(|expr| {
                    let datafusion_expr::Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
                    let index = projection.schema.index_of_column(column)?;
                    Ok(Transformed::yes(projection.expr[index].clone().unalias_nested().data))
                })
                .data()
                .unwrap(),
        });
        below = &projection.input;
    }
    let expr = expr.expect("a projection");
    Ok(expr.unalias_nested().data)
}

/// The answers of Weir for these rows of one expression and the same types, over columns.
fn over_columns(rows: &[&Asked]) -> Vec<Answer> {
    let mut fields = vec![Field::new("id", DataType::Int32, false)];
    let mut columns: Vec<ArrayRef> = vec![Arc::new(arrow::array::Int32Array::from_iter_values(0..rows.len() as i32))];
    for (index, name) in ('a'..='z').enumerate().take(rows[0].columns.len()) {
        let data_type = weir_type(&rows[0].columns[index].0).unwrap();
        let values: Vec<Option<&str>> = rows.iter().map(|row| row.columns[index].1.as_deref()).collect();
        columns.push(column(&data_type, &values));
        fields.push(Field::new(name.to_string(), data_type, true));
    }
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let expr = match queried(&rows[0].sql, &schema) {
        Ok(expr) => expr,
        Err(error) => return vec![Answer::Refused(error.message); rows.len()],
    };
    let schema = datafusion_common::DFSchema::try_from_qualified_schema("t", &schema).unwrap();
    let expr = match physical(&expr, &schema) {
        Ok(expr) => expr,
        Err(error) => return vec![Answer::Refused(error.to_string()); rows.len()],
    };
    let evaluated = |batch: &RecordBatch| -> Result<Vec<Answer>, String> {
        let declared = expr.data_type(&batch.schema()).map_err(|error| error.to_string())?;
        let values = expr
            .evaluate(batch)
            .and_then(|value| value.into_array(batch.num_rows()))
            .map_err(|error| error.to_string())?;
        assert_eq!(*values.data_type(), declared, "{}: what is promised is what is given", rows[0].sql);
        Ok(texts(&values).into_iter().map(|text| Answer::Gives(flink_name(&declared), text)).collect())
    };
    evaluated(&batch).unwrap_or_else(|_| {
        let one = |row: usize| match evaluated(&batch.slice(row, 1)) {
            Ok(mut answers) => answers.remove(0),
            Err(error) => Answer::Fails(error),
        };
        (0..rows.len()).map(one).collect()
    })
}

/// Puts literals in the place of columns.
struct Constants<'a>(&'a Asked);

impl VisitorMut for Constants<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
        if let ast::Expr::Identifier(name) = expr
            && let Some((data_type, value)) =
                ('a'..='z').position(|column| name.value == column.to_string()).and_then(|at| self.0.columns.get(at))
        {
            let text = match (data_type.as_str(), value) {
                (_, None) => format!("CAST(NULL AS {data_type})"),
                ("STRING", Some(text)) => format!("'{}'", text.replace('\'', "''")),
                ("BYTES", Some(text)) => format!("x'{text}'"),
                (_, Some(text)) => format!("CAST('{text}' AS {data_type})"),
            };
            *expr = ast::Expr::Nested(Box::new(
                Parser::new(&FlinkDialect).try_with_sql(&text).unwrap().parse_expr().unwrap(),
            ));
        }
        ControlFlow::Continue(())
    }
}

/// The answer of Weir where the row's values are constants.
fn of_constants(row: &Asked) -> Answer {
    let refused = |error: PlanError| Answer::Refused(error.message);
    let names = Names::new(Functions::builtin());
    let text = format!("SELECT {}", row.sql);
    let parsed = pieces(&text).and_then(|mut cut| {
        let tokens = cut.all.remove(0).tokens;
        let mut parser = Parser::new(&FlinkDialect).with_tokens_with_locations(tokens);
        parser.parse_query().map_err(|error| PlanError::from_parser(&error))
    });
    let expr = match parsed {
        Ok(query) => match *query.body {
            SetExpr::Select(mut select) => match select.projection.remove(0) {
                ast::SelectItem::UnnamedExpr(expr) => expr,
                other => return Answer::Refused(other.to_string()),
            },
            other => return Answer::Refused(other.to_string()),
        },
        Err(error) => return Answer::Refused(error.to_string()),
    };
    let mut expr = expr;
    let _ = expr.visit(&mut Constants(row));
    if let Err(error) = check_expr(&mut expr, names.functions(), Place::default()) {
        return refused(error);
    }
    let schema = Schema::new(vec![Field::new("id", DataType::Int32, false)]);
    let one: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![0]));
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![one]).unwrap();
    let schema = unqualified(&schema).unwrap();
    let planned = match plan_expr(expr, &schema, &names, Place::default()) {
        Ok(planned) => planned,
        Err(error) => return refused(error),
    };
    let expr = match physical(&planned, &schema) {
        Ok(expr) => expr,
        Err(error) => return Answer::Refused(error.to_string()),
    };
    match expr.evaluate(&batch).and_then(|value| value.into_array(1)) {
        Ok(values) => Answer::Gives(flink_name(values.data_type()), texts(&values).remove(0)),
        Err(error) => Answer::Fails(error.to_string()),
    }
}

/// The listed differences and the reasons over them.
fn listed(text: &str) -> (BTreeSet<String>, Vec<String>) {
    let mut keys = BTreeSet::new();
    let mut reasons = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match line.strip_prefix("# ") {
            Some(reason) => reasons.push(reason.to_string()),
            None => assert!(keys.insert(line.to_string()), "listed twice: {line}"),
        }
    }
    (keys, reasons)
}

#[test]
fn every_answer_is_flinks_but_for_the_documented_differences() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(here.join(path)).unwrap();
    let tables = ["tests/data/answers.jsonl", "tests/data/nested.jsonl"].map(read);
    let table: Vec<Asked> = tables.iter().flat_map(|table| table.lines()).map(Asked::read).collect();
    assert!(table.len() >= 3_000, "the table has {} rows", table.len());
    let (mut listed, reasons) = listed(&read("tests/data/differences.txt"));
    let documented = read("../../docs/sql.md");
    for reason in &reasons {
        assert!(documented.contains(reason.as_str()), "docs/sql.md does not say: {reason}");
    }

    let mut kinds: BTreeMap<_, Vec<&Asked>> = BTreeMap::new();
    for row in &table {
        kinds.entry(row.kind()).or_default().push(row);
    }
    let (mut failures, mut failed) = (String::new(), 0);
    for rows in kinds.values() {
        // What fails at every value may be refused before there is any.
        let fails = |row: &&Asked| matches!(row.answer, Answer::Fails(_));
        let is_null = |row: &&Asked| matches!(row.answer, Answer::Gives(_, None));
        let never_works = rows.iter().any(fails) && rows.iter().all(|row| fails(row) || is_null(row));
        for (row, found) in rows.iter().zip(over_columns(rows)) {
            if never_works && matches!(found, Answer::Refused(_)) {
                continue;
            }
            let constant = match (&row.answer, of_constants(row)) {
                // What fails at a row may be seen when constants are folded.
                (Answer::Fails(_), Answer::Refused(why)) => Answer::Fails(why),
                (_, constant) => constant,
            };
            let differing: Vec<(&str, Answer)> = [("column", found), ("constant", constant)]
                .into_iter()
                .filter(|(_, found)| !row.agrees(found))
                .collect();
            let line = row.line();
            match (differing.is_empty(), listed.remove(&line)) {
                (true, false) | (false, true) => {}
                (true, true) => {
                    let _ = writeln!(failures, "listed as a difference, and is none: {line}");
                }
                (false, false) => {
                    failed += 1;
                    for (how, found) in differing {
                        let _ = writeln!(failures, "{line}\n    Flink: {}\n    {how}: {found}", row.answer);
                    }
                }
            }
        }
    }
    for line in &listed {
        let _ = writeln!(failures, "listed as a difference, and is not in the table: {line}");
    }
    assert!(failures.is_empty(), "{failures}\n{failed} of {} rows differ", table.len());
}

#[test]
fn the_table_has_every_function_of_a_row() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = ["tests/data/answers.jsonl", "tests/data/nested.jsonl"]
        .map(|path| std::fs::read_to_string(here.join(path)).unwrap())
        .concat();
    // The clock gives another value at each call.
    let clocks = [
        "PROCTIME",
        "NOW",
        "CURRENT_TIMESTAMP",
        "CURRENT_ROW_TIMESTAMP",
        "LOCALTIMESTAMP",
        "CURRENT_DATE",
        "GET_FIELD",
    ];
    let functions = Functions::builtin();
    for name in functions.scalar.keys().filter(|name| !name.starts_with('$')).map(|name| name.to_ascii_uppercase()) {
        let is_asked = table.contains(&format!("{name}(")) || clocks.contains(&name.as_str());
        assert!(is_asked, "{name} is not in the table of answers");
    }
}
