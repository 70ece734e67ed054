//! Expressions as a script writes them, and what they give on a batch of two rows; the second is all NULL.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::array_value_to_string;
use datafusion_sql::sqlparser::parser::Parser;

use super::Functions;
use crate::error::{Place, PlanError};
use crate::logical::exprs::{physical, plan_expr, unqualified};
use crate::names::catalog::Names;
use crate::parse::check::check_expr;
use crate::parse::dialect::FlinkDialect;
use crate::parse::types::{TIMESTAMP, flink_name};

/// 2015-07-15 13:07:09.234
const MILLIS: i64 = 1_436_965_629_234;

fn batch() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("i", Arc::new(Int32Array::from(vec![Some(7), None]))),
        ("l", Arc::new(Int64Array::from(vec![Some(-12), None]))),
        ("d", Arc::new(Float64Array::from(vec![Some(2.5), None]))),
        ("m", Arc::new(Decimal128Array::from(vec![Some(1250), None]).with_precision_and_scale(10, 2).unwrap())),
        ("s", Arc::new(StringArray::from(vec![Some("Flink,Weir,Ström"), None]))),
        ("t", Arc::new(TimestampMillisecondArray::from(vec![Some(MILLIS), None]))),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The type and both values, or the error.
fn evaluated(text: &str) -> Result<(DataType, Vec<String>), PlanError> {
    let mut expr = Parser::new(&FlinkDialect).try_with_sql(text).unwrap().parse_expr().unwrap();
    let names = Names::new(Functions::builtin());
    check_expr(&mut expr, names.functions(), Place::default())?;
    let rows = batch();
    let schema = unqualified(&rows.schema()).unwrap();
    let expr = plan_expr(expr, &schema, &names, Place::default())?;
    let expr = physical(&expr, &schema).map_err(|error| PlanError::from_planner(&error, Place::default()))?;
    let declared = expr.data_type(&rows.schema()).unwrap();
    let values = expr
        .evaluate(&rows)
        .and_then(|value| value.into_array(rows.num_rows()))
        .map_err(|error| PlanError::from_planner(&error, Place::default()))?;
    assert_eq!(*values.data_type(), declared, "{text}: what is promised is what is given");
    let texts = (0..rows.num_rows())
        .map(|row| if values.is_null(row) { "NULL".to_string() } else { array_value_to_string(&values, row).unwrap() })
        .collect();
    Ok((declared, texts))
}

#[track_caller]
fn gives(text: &str, data_type: &str, first: &str, second: &str) {
    let (found, values) = evaluated(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(
        (flink_name(&found).as_str(), values[0].as_str(), values[1].as_str()),
        (data_type, first, second),
        "{text}"
    );
}

#[test]
fn numbers_have_flinks_types_and_division() {
    gives("i + 1", "INT", "8", "NULL");
    gives("i / 2", "INT", "3", "NULL");
    gives("l / 5", "BIGINT", "-2", "NULL");
    gives("MOD(l, 5)", "INT", "-2", "NULL");
    gives("MOD(i, 4) = 3", "BOOLEAN", "true", "NULL");
    gives("ABS(l)", "BIGINT", "12", "NULL");
    gives("POWER(i, 2)", "DOUBLE", "49.0", "NULL");
    gives("FLOOR(d)", "DOUBLE", "2.0", "NULL");
    gives("CEIL(d)", "DOUBLE", "3.0", "NULL");
    gives("FLOOR(i)", "INT", "7", "NULL");
    gives("ROUND(d * 1.11, 1)", "DOUBLE", "2.8", "NULL");
    gives("LN(EXP(2))", "DOUBLE", "2.0", "2.0");
    gives("3000000000 + i", "BIGINT", "3000000007", "NULL");
    gives("CAST(d AS BIGINT)", "BIGINT", "2", "NULL");
    gives("CAST('12.345' AS DECIMAL(10, 2))", "DECIMAL(10, 2)", "12.35", "12.35");
    gives("m * 2", "DECIMAL(21, 2)", "25.00", "NULL");
    gives("IF(i > 5, 'big', 'small')", "STRING", "big", "small");
    gives("COALESCE(i, 0)", "INT", "7", "0");
    gives("NULLIF(i, 7)", "INT", "NULL", "NULL");
    gives("IFNULL(l, 5)", "BIGINT", "-12", "5");
    gives("CASE WHEN i IS NULL THEN 0 WHEN i BETWEEN 1 AND 9 THEN 1 ELSE 2 END", "INT", "1", "0");
    gives("i IN (1, 7)", "BOOLEAN", "true", "NULL");
    gives("i IN (1, 7000000000, NULL)", "BOOLEAN", "NULL", "NULL");
    gives("m IN (1, 12.50)", "BOOLEAN", "true", "NULL");
    gives("d IN (1, 2.5)", "BOOLEAN", "true", "NULL");
    gives("CASE l WHEN 1 THEN 'a' WHEN -12 THEN 'b' END", "STRING", "b", "NULL");
    gives("CASE d WHEN 1 THEN 'a' WHEN 2.5 THEN 'b' END", "STRING", "b", "NULL");
}

#[test]
fn texts_have_flinks_treatment_of_null() {
    gives("UPPER(s)", "STRING", "FLINK,WEIR,STRÖM", "NULL");
    gives("CONCAT(s, '!', LOWER(s))", "STRING", "Flink,Weir,Ström!flink,weir,ström", "NULL");
    gives("s || '!'", "STRING", "Flink,Weir,Ström!", "NULL");
    gives("CONCAT_WS('-', 'a', s)", "STRING", "a-Flink,Weir,Ström", "a");
    gives("CHAR_LENGTH(s)", "INT", "16", "NULL");
    gives("SUBSTRING(s, 7, 4)", "STRING", "Weir", "NULL");
    gives("s LIKE 'Fl_nk%Str_m'", "BOOLEAN", "true", "NULL");
    gives("TRIM(LEADING FROM s)", "STRING", "Flink,Weir,Ström", "NULL");
    gives("REGEXP(s, '^[A-z]+,\\w{4},')", "BOOLEAN", "true", "NULL");
    gives("SUBSTRING(s FROM 7 FOR 4)", "STRING", "Weir", "NULL");
    gives("POSITION('Weir' IN s)", "INT", "7", "NULL");
    gives("SPLIT_INDEX(s, ',', 2)", "STRING", "Ström", "NULL");
    gives("SPLIT_INDEX(s, ',', 3)", "STRING", "NULL", "NULL");
    gives("REGEXP_EXTRACT(s, '(W)(e)ir', 2)", "STRING", "e", "NULL");
    gives("REGEXP_EXTRACT(s, 'nothing', 0)", "STRING", "NULL", "NULL");
    gives("REGEXP_REPLACE(s, '[,]', ';')", "STRING", "Flink;Weir;Ström", "NULL");
    gives("REGEXP(s, '^Fl')", "BOOLEAN", "true", "NULL");
    gives("s LIKE '%Weir%'", "BOOLEAN", "true", "NULL");
    gives("TRIM('  x ')", "STRING", "x", "x");
    gives("TRIM(LEADING 'x' FROM 'xxy')", "STRING", "y", "y");
    gives("REPLACE(s, ',', '')", "STRING", "FlinkWeirStröm", "NULL");
    gives("CAST(i AS STRING)", "STRING", "7", "NULL");
    gives("CAST(i > 5 AS STRING)", "STRING", "TRUE", "NULL");
}

#[test]
fn times_have_flinks_fields_and_forms() {
    gives("DATE_FORMAT(t, 'yyyy-MM-dd')", "STRING", "2015-07-15", "NULL");
    gives("DATE_FORMAT(t, 'HH:mm:ss.SSS')", "STRING", "13:07:09.234", "NULL");
    gives("DATE_FORMAT('2015-07-15 13:07:09', 'HH:mm')", "STRING", "13:07", "13:07");
    gives("CAST(t AS STRING)", "STRING", "2015-07-15 13:07:09.234", "NULL");
    gives("HOUR(t)", "BIGINT", "13", "NULL");
    gives("MINUTE(t)", "BIGINT", "7", "NULL");
    gives("SECOND(t)", "BIGINT", "9", "NULL");
    gives("DAYOFMONTH(t)", "BIGINT", "15", "NULL");
    gives("DAYOFWEEK(t)", "BIGINT", "4", "NULL");
    gives("EXTRACT(DAY FROM t)", "BIGINT", "15", "NULL");
    gives("EXTRACT(YEAR FROM t) * 100 + EXTRACT(MONTH FROM t)", "BIGINT", "201507", "NULL");
    gives("FLOOR(t TO HOUR)", "TIMESTAMP(3)", "2015-07-15T13:00:00", "NULL");
    gives("CEIL(t TO MONTH)", "TIMESTAMP(3)", "2015-08-01T00:00:00", "NULL");
    gives("t - INTERVAL '9' SECOND", "TIMESTAMP(3)", "2015-07-15T13:07:00.234", "NULL");
    gives("t > TIMESTAMP '2015-07-15 00:00:00'", "BOOLEAN", "true", "NULL");
    gives("TO_TIMESTAMP('2015-07-15 13:07:09')", "TIMESTAMP(3)", "2015-07-15T13:07:09", "2015-07-15T13:07:09");
    gives("TO_TIMESTAMP('15/7/2015', 'd/M/yyyy')", "TIMESTAMP(3)", "2015-07-15T00:00:00", "2015-07-15T00:00:00");
    gives("TO_TIMESTAMP(s)", "TIMESTAMP(3)", "NULL", "NULL");
    gives("TO_TIMESTAMP_LTZ(l, 3)", "TIMESTAMP_LTZ(3)", "1969-12-31T23:59:59.988Z", "NULL");
    gives("FROM_UNIXTIME(0)", "STRING", "1970-01-01 00:00:00", "1970-01-01 00:00:00");
    gives("UNIX_TIMESTAMP('1970-01-02 00:00:00')", "BIGINT", "86400", "86400");
    gives("TO_DATE('2015-07-15')", "DATE", "2015-07-15", "2015-07-15");
    assert_eq!(evaluated("PROCTIME()").unwrap().0, crate::parse::types::timestamp_ltz());
    assert_eq!(evaluated("LOCALTIMESTAMP").unwrap().0, TIMESTAMP);
    gives("t + INTERVAL '-1-2' YEAR TO MONTH", "TIMESTAMP(3)", "2014-05-15T13:07:09.234", "NULL");
    gives("t + INTERVAL '1 02:03:04.5' DAY TO SECOND", "TIMESTAMP(3)", "2015-07-16T15:10:13.734", "NULL");
    gives("t - INTERVAL '01:30' HOUR TO MINUTE", "TIMESTAMP(3)", "2015-07-15T11:37:09.234", "NULL");
}

#[test]
fn a_pattern_may_stand_in_a_column_and_gives_what_flink_gives_where_it_has_no_meaning() {
    gives("REGEXP_EXTRACT(s, SUBSTRING(s, 7, 4))", "STRING", "Weir", "NULL");
    gives("REGEXP_EXTRACT(s, CONCAT('(W)(', SUBSTRING(s, 8, 1), ')'), i - 5)", "STRING", "e", "NULL");
    gives("REGEXP_EXTRACT(s, CONCAT('(', s))", "STRING", "NULL", "NULL");
    gives("REGEXP_REPLACE(s, SUBSTRING(s, 6, 1), LOWER(SUBSTRING(s, 1, 1)))", "STRING", "FlinkfWeirfStröm", "NULL");
    gives("REGEXP(s, SUBSTRING(s, 7, 4))", "BOOLEAN", "true", "NULL");
    gives("REGEXP(s, CONCAT('^', SUBSTRING(s, 7, 4)))", "BOOLEAN", "false", "NULL");
    gives("REGEXP(s, CONCAT('(', s))", "BOOLEAN", "false", "NULL");
    gives("s LIKE CONCAT('%', SUBSTRING(s, 7, 4), '%')", "BOOLEAN", "true", "NULL");
    gives("s SIMILAR TO CONCAT('%', SUBSTRING(s, 7, 4), '%')", "BOOLEAN", "true", "NULL");
    gives("SPLIT_INDEX(s, SUBSTRING(s, 6, 1), i - 6)", "STRING", "Weir", "NULL");
    gives("DATE_FORMAT(t, CONCAT('yyyy', SUBSTRING(s, 6, 1)))", "STRING", "2015,", "NULL");
    let error = evaluated("DATE_FORMAT(t, s)").expect_err("it is no pattern").message;
    assert!(error.contains("the letter F in the pattern 'Flink,Weir,Ström'"), "{error}");
    gives("TO_TIMESTAMP(s, s)", "TIMESTAMP(3)", "NULL", "NULL");
    gives(
        "TO_TIMESTAMP('2015,7', CONCAT('yyyy', SUBSTRING(s, 6, 1), 'M'))",
        "TIMESTAMP(3)",
        "2015-07-01T00:00:00",
        "NULL",
    );
    gives("TO_DATE('2015,7', CONCAT('yyyy', SUBSTRING(s, 6, 1), 'M'))", "DATE", "2015-07-01", "NULL");
    gives("FROM_UNIXTIME(0, CONCAT('yyyy', SUBSTRING(s, 6, 1)))", "STRING", "1970,", "NULL");
    gives("UNIX_TIMESTAMP('1970,', CONCAT('yyyy', SUBSTRING(s, 6, 1)))", "BIGINT", "0", "NULL");
    gives("TO_TIMESTAMP_LTZ(l, i - 7)", "TIMESTAMP_LTZ(3)", "1969-12-31T23:59:48Z", "NULL");
}

#[test]
fn a_value_that_is_too_large_is_an_error_with_the_function_and_the_row() {
    for (text, call) in [
        ("REPEAT(s, 300000000 + i)", "REPEAT(Flink,Weir,Ström, 300000007) in row 1 of 2"),
        ("RPAD(s, 300000000 + i, ' ')", "RPAD(Flink,Weir,Ström, 300000007,  ) in row 1 of 2"),
        ("LPAD(s, 300000000 + i, 'xy')", "LPAD(Flink,Weir,Ström, 300000007, xy) in row 1 of 2"),
        ("REPLACE(REPEAT(s, 60000 * i), ',', REPEAT(s, i))", "REPLACE(Flink,Weir,Ström"),
        ("REGEXP_REPLACE(REPEAT(s, 60000 * i), '[,i]', REPEAT(s, i))", "REGEXP_REPLACE(Flink,Weir,Ström"),
        ("REPEAT(s, 300000 * i) || REPEAT(s, 300000 * i)", "||(Flink,Weir,Ström"),
        ("CONCAT(REPEAT(s, 300000 * i), REPEAT(s, 300000 * i))", "||(Flink,Weir,Ström"),
        ("CONCAT_WS('-', REPEAT(s, 300000 * i), REPEAT(s, 300000 * i))", "CONCAT_WS(-, Flink,Weir,Ström"),
    ] {
        let error = evaluated(text).expect_err(text).message;
        assert!(error.contains(call) && error.contains("and 67108864 are the most"), "{text}: {error}");
        assert!(error.len() < 400, "{error}");
    }
    // Not the lengths that could be, but those that are.
    gives("CHAR_LENGTH(REPLACE(REPEAT(s, 60000 * i), 'zzz', REPEAT(s, i)))", "INT", "6720000", "NULL");
    gives("CHAR_LENGTH(REGEXP_REPLACE(REPEAT(s, 60000 * i), 'z', REPEAT(s, i)))", "INT", "6720000", "NULL");
    gives("CHAR_LENGTH(LPAD(s, 60000000 + i, ' '))", "INT", "60000007", "NULL");
}

#[test]
fn a_constant_that_is_too_large_is_refused_before_any_row_is_there() {
    for text in [
        "REPEAT('a', 2000000000)",
        "REPEAT(REPEAT('a', 1000000), 1000000)",
        "RPAD('a', 2000000000, ' ')",
        "LPAD(s, 2000000000, ' ')",
        "CAST(s AS CHAR(2000000000))",
        "CAST('a' AS CHAR(2000000))",
        "REPLACE(REPEAT('a', 1000000), 'a', REPEAT('b', 1000000))",
        "CONCAT(s, REPEAT('a', 2000000000))",
    ] {
        let error = evaluated(text).expect_err(text).message;
        assert!(error.contains("are the most") || error.contains("at most"), "{text}: {error}");
    }
    gives("CHAR_LENGTH(REPEAT('a', 1000000))", "INT", "1000000", "1000000");
}

#[test]
fn what_is_written_several_times_does_not_double_with_each_level() {
    // The stack that the planner has.
    let planner = std::thread::Builder::new().stack_size(crate::PLANNING_STACK);
    planner.spawn(several_times).unwrap().join().unwrap();
}

fn several_times() {
    for (open, close) in [
        ("NULLIF(", ", 1)"),
        ("COALESCE(", ", 1)"),
        ("CASE ", " WHEN 1 THEN 2 WHEN 0.5e0 THEN 3 ELSE 4 END"),
        ("CAST(", " BETWEEN 0 AND 1 AS INT)"),
        ("CAST(", " IN (1, 2e0) AS INT)"),
    ] {
        let text = |levels: usize| format!("{}i{}", open.repeat(levels), close.repeat(levels));
        evaluated(&text(3)).unwrap_or_else(|error| panic!("{open}: {error}"));
        let error = evaluated(&text(40)).expect_err(open).message;
        assert!(error.contains("more than 100000 times"), "{open}: {error}");
    }
    evaluated(&format!("d IN ({}0)", "7, ".repeat(20_000))).unwrap();
}

#[test]
fn wrong_arguments_are_told_before_any_row_is_there() {
    for (text, message) in [
        ("DATE_FORMAT(t, 'yyyy z')", "DATE_FORMAT: the letter z"),
        ("TO_DATE(s, 'YYYY-ww')", "TO_DATE: the letter Y"),
        ("t + INTERVAL '1-12' YEAR TO MONTH", "the interval '1-12' cannot be read"),
        ("DATE_FORMAT(t, REPEAT('y', 70000))", "70000"),
        ("DATE_FORMAT(i, 'yyyy')", "DATE_FORMAT takes a time, and INT is given"),
        ("HOUR(t, t)", "HOUR takes 1 arguments, and 2 are given"),
        ("MOD(s, 2)", "% does not take STRING and INT"),
        ("DATE_FORMAT(DATE '2015-07-15', 'yyyy')", "DATE_FORMAT takes a time, and DATE is given"),
        ("CASE WHEN i > 0 THEN s ELSE i END", "CASE does not take values of the types STRING, INT"),
        ("s = i", "= does not take STRING and INT"),
        ("d % 2", "% does not take DOUBLE and INT"),
        ("CAST(t AS INT)", "CAST from TIMESTAMP(3) to INT is not supported"),
        ("12345678901234567890", "out of range"),
        ("REGEXP_EXTRACT(s, '(')", "REGEXP_EXTRACT"),
        ("TO_TIMESTAMP_LTZ(l, 6)", "the precision must be 0 or 3"),
        ("EXTRACT(JULIAN FROM t)", "EXTRACT has no unit JULIAN"),
        ("CAST(i AS INTERVAL)", ""),
        ("NONSENSE(i)", "there is no function NONSENSE"),
    ] {
        let error = evaluated(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
    }
}
