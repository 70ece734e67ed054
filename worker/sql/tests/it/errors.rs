//! What is refused, with exactly the line and column, and what to write instead.

use std::cell::RefCell;

use crate::support::{NEXMARK, planned};

/// A table of bids, a view with processing time, and a sink for each form, on lines 1 to 6.
const TABLES: &str = "\
CREATE TABLE bid (auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, t TIMESTAMP(3), WATERMARK FOR t AS t - INTERVAL '5' SECOND) WITH ('connector' = 'test');
CREATE VIEW B AS SELECT *, PROCTIME() AS p FROM bid;
CREATE TABLE two (a BIGINT, b BIGINT) WITH ('connector' = 'test');
CREATE TABLE one (a BIGINT) WITH ('connector' = 'test');
CREATE TABLE final (a BIGINT, b BIGINT) WITH ('connector' = 'test', 'changelog' = 'false');
CREATE TABLE texts (a STRING, b INT NOT NULL) WITH ('connector' = 'test');
";

thread_local! {
    static WRONG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Tells all cases of a test that went wrong, and not only the first.
struct Cases;

impl Drop for Cases {
    fn drop(&mut self) {
        let wrong = WRONG.take();
        if !std::thread::panicking() {
            assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
        }
    }
}

/// The error for a script behind [`TABLES`]: its line less 6, its column, its message, its remedy.
fn refused(script: &str, line: u64, column: u64, message: &str, remedy: &str) {
    let expected = format!("{script}\n  expected {line}:{column} {message} | {remedy}");
    let wrong = match planned(&format!("{TABLES}{script}")) {
        Ok(_) => Some(format!("{expected}\n  is planned")),
        Err(error) => {
            let place = (error.line.map(|line| line.saturating_sub(6)), error.column);
            let fits = error.message.contains(message) && error.remedy.contains(remedy);
            (!fits || place != (Some(line), Some(column))).then(|| format!("{expected}\n  found    {place:?} {error}"))
        }
    };
    WRONG.with_borrow_mut(|all| all.extend(wrong));
}

#[test]
fn a_script_that_does_not_parse_says_where() {
    let _cases = Cases;
    refused("INSERT INTO two SELEKT auction, price FROM bid", 1, 17, "found: SELEKT", "");
    refused("INSERT INTO two\nSELECT auction,, price FROM bid", 2, 16, "found: ,", "");
    refused("INSERT two SELECT auction, price FROM bid", 1, 8, "expected INTO, found two", "");
    refused("INSERT INTO two SELECT 'auction, price FROM bid", 1, 24, "Unterminated string literal", "");
    refused("CREATE TABLE x (a BIGINT WITH ('connector' = 'test')", 1, 26, "expected ',' or ')', found WITH", "");
    refused(
        "CREATE TABLE x (a BIGNIT) WITH ('connector' = 'test')",
        1,
        19,
        "no data type BIGNIT",
        "did you mean BIGINT?",
    );
    refused(
        "CREATE TABLE x (a MULTISET<INT>) WITH ('connector' = 'test')",
        1,
        19,
        "type MULTISET are not supported",
        "STRING",
    );
    refused("INSERT INTO one SELECT auction FROM bid INSERT INTO one SELECT price FROM bid", 1, 48, "expected ';'", "");
}

#[test]
fn unknown_names_are_told_with_the_nearest_known() {
    let _cases = Cases;
    refused("INSERT INTO one SELECT auction FROM bidd", 1, 37, "there is no table bidd", "did you mean bid?");
    refused("INSERT INTO onne SELECT auction FROM bid", 1, 13, "there is no table onne", "did you mean one?");
    refused("INSERT INTO one\n  SELECT aucton FROM bid", 2, 10, "there is no column aucton", "did you mean auction?");
    refused(
        "INSERT INTO one SELECT Auction FROM bid",
        1,
        24,
        "there is no column Auction",
        "did you mean auction? Names are case-sensitive",
    );
    refused("INSERT INTO one SELECT x.auction FROM bid", 1, 24, "there is no column x.auction", "auction");
    refused(
        "INSERT INTO one SELECT auction FROM bid WHERE prise > 1",
        1,
        47,
        "there is no column prise",
        "did you mean price?",
    );
    refused(
        "INSERT INTO one SELECT COUNT(*) FROM bid GROUP BY chanel",
        1,
        51,
        "there is no column chanel",
        "did you mean channel?",
    );
    refused(
        "INSERT INTO texts SELECT UPER(channel), 1 FROM bid",
        1,
        26,
        "there is no function UPER",
        "did you mean UPPER?",
    );
    refused(
        "INSERT INTO texts SELECT FROBNICATE(channel), 1 FROM bid",
        1,
        26,
        "there is no function FROBNICATE",
        "workers.image",
    );
    refused(
        "CREATE TABLE x (a BIGINT) WITH ('connector' = 'tests');\nINSERT INTO x SELECT auction FROM bid",
        1,
        33,
        "there is no connector 'tests'",
        "did you mean 'test'?",
    );
    refused(
        "CREATE TABLE x (a BIGINT) WITH ('connector' = 'test',\n  'boundet' = 'true');\nINSERT INTO one SELECT a FROM x",
        2,
        3,
        "has no option 'boundet'",
        "did you mean 'bounded'?",
    );
    refused(
        "INSERT INTO two (a, c) SELECT auction, price FROM bid",
        1,
        21,
        "the table two has no column c",
        "columns are a, b",
    );
    refused(
        "SET 'weir.projection-pushdwon' = 'false';",
        1,
        5,
        "there is no setting",
        "did you mean weir.projection-pushdown?",
    );
    refused("SET 'table.exec.state.ttl' = '1 h';", 1, 5, "would change the result", "'0'");
    refused("SET paralellism.default = 4;", 1, 5, "there is no setting", "did you mean parallelism.default?");
    refused("SET \"a\" = 'b'", 1, 5, "in double quotes", "single");
    refused("SET 'a'", 1, 8, "expected '='", "");
}

#[test]
fn a_query_must_fit_its_sink() {
    let _cases = Cases;
    refused("INSERT INTO two SELECT auction FROM bid", 1, 13, "gives 1 columns, and two takes 2", "each of a, b");
    refused(
        "INSERT INTO two SELECT auction,\n  channel FROM bid",
        2,
        3,
        "column b of two is BIGINT, and the query gives channel (STRING)",
        "write CAST(… AS BIGINT), or declare the column STRING",
    );
    refused(
        "INSERT INTO texts SELECT channel, price FROM bid",
        1,
        35,
        "column b of texts is INT, and the query gives price (BIGINT)",
        "CAST(… AS INT)",
    );
    refused(
        "INSERT INTO texts (a) SELECT channel FROM bid",
        1,
        20,
        "the column b of texts is NOT NULL and gets no value",
        "name it",
    );
    refused(
        "INSERT INTO final SELECT auction, COUNT(*) FROM bid GROUP BY auction",
        1,
        13,
        "table final: it takes inserts only, and GroupAggregate of line 7 updates its rows",
        "aggregate in a window",
    );
}

#[test]
fn types_that_do_not_match_are_told_where_they_stand() {
    let _cases = Cases;
    refused(
        "INSERT INTO one SELECT auction FROM bid WHERE channel",
        1,
        47,
        "non-boolean predicate 'bid.channel' returning STRING",
        "",
    );
    refused("INSERT INTO one SELECT SUM(channel) FROM bid", 1, 24, "SUM does not take STRING", "");
    refused("INSERT INTO one SELECT auction + t FROM bid", 1, 24, "", "");
    refused("INSERT INTO one SELECT MOD(auction) FROM bid", 1, 24, "MOD takes two numbers", "");
    refused("INSERT INTO texts SELECT DATE_FORMAT(t, 'yyyy-zz'), 1 FROM bid", 1, 26, "letter z", "");
    refused("INSERT INTO texts SELECT \"channel\", 1 FROM bid", 1, 26, "double quotes", "`channel` for a name");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let _cases = Cases;
    refused(
        "INSERT INTO one SELECT auction FROM bid\nINTERSECT ALL SELECT price FROM bid",
        2,
        15,
        "INTERSECT ALL",
        "INTERSECT and EXCEPT are",
    );
    refused("INSERT INTO one SELECT auction FROM bid ORDER BY auction", 1, 50, "ORDER BY", "leave it out");
    refused("INSERT INTO one SELECT auction FROM bid LIMIT 3", 1, 47, "LIMIT", "leave it out");
    refused(
        "INSERT INTO one SELECT SUM(price) OVER (PARTITION BY auction ORDER BY price) FROM bid",
        1,
        71,
        "the order of SUM OVER is no time attribute",
        "WATERMARK",
    );
    refused(
        "INSERT INTO one SELECT LEAD(price) OVER (PARTITION BY auction ORDER BY t) FROM bid",
        1,
        29,
        "LEAD, which would wait",
        "LAG",
    );
    refused(
        "INSERT INTO one SELECT SUM(price) OVER (ORDER BY t ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM bid",
        1,
        28,
        "rows after the current one",
        "AND CURRENT ROW",
    );
    refused(
        "INSERT INTO one SELECT COUNT(DISTINCT price) OVER (ORDER BY t) FROM bid",
        1,
        39,
        "DISTINCT",
        "leave it out",
    );
    refused(
        "INSERT INTO one SELECT GROUPING(bidder) FROM bid GROUP BY ROLLUP(auction)",
        1,
        24,
        "GROUPING takes columns of GROUP BY",
        "",
    );
    refused("SELECT * FROM bid", 1, 1, "a query alone", "INSERT INTO");
    refused("CREATE FUNCTION f AS 'a.F'", 1, 17, "no Java here that could run a.F", "workers.image");
    refused("ADD JAR '/tmp/a.jar'", 1, 1, "ADD JAR is not supported", "worker binary of your own");
    refused("UPDATE one SET a = 1", 1, 1, "UPDATE is not supported", "");
    refused("EXECUTE STATEMENT SET BEGIN INSERT INTO one SELECT auction FROM bid;", 1, 1, "no END", "END");
    refused(
        "CREATE TABLE x (a BIGINT METADATA, b BIGINT) WITH ('connector' = 'test'); INSERT INTO x SELECT auction, 1 FROM bid",
        1,
        17,
        "has no metadata",
        "leave the column out",
    );
    refused(
        "CREATE TABLE x (a BIGINT) PARTITIONED BY (a) WITH ('connector' = 'test'); INSERT INTO x SELECT auction FROM bid",
        1,
        43,
        "PARTITIONED BY a",
        "leave",
    );
    refused(
        "CREATE TABLE x (a BIGINT) DISTRIBUTED BY (a) INTO 4 BUCKETS WITH ('connector' = 'test')",
        1,
        27,
        "DISTRIBUTED BY is not supported",
        "leave",
    );
    refused(
        "CREATE TABLE x (a BIGINT, PRIMARY KEY (a)) WITH ('connector' = 'test')",
        1,
        42,
        "primary key",
        "NOT ENFORCED",
    );
    refused("INSERT INTO two VALUES (1, 'a')", 1, 24, "column b of two is BIGINT", "CAST");
    refused("INSERT INTO one VALUES (1), ('a')", 1, 24, "in VALUES is no constant of type", "UNION ALL");
}

/// An aggregation by the windows of that table function.
fn window(tvf: &str) -> String {
    format!("INSERT INTO one SELECT COUNT(*)\nFROM TABLE({tvf})\nGROUP BY window_start, window_end")
}

#[test]
fn windows_say_what_is_wrong_with_them() {
    let _cases = Cases;
    refused(
        &window("TUMBLE(TABLE bid, DESCRIPTOR(price), INTERVAL '1' MINUTE)"),
        2,
        41,
        "the column price (BIGINT) is no time attribute",
        "WATERMARK FOR price",
    );
    refused(&window("TUMBLE(TABLE bid, DESCRIPTOR(tt), INTERVAL '1' MINUTE)"), 2, 41, "no column tt", "");
    refused(&window("TUMBLE(TABLE bid, DESCRIPTOR(t))"), 2, 12, "TUMBLE lacks its argument SIZE", "write TUMBLE(");
    refused(
        &window("TUMBLE(TABLE bid, DESCRIPTOR(t), 10)"),
        2,
        45,
        "10 is no length of a window",
        "INTERVAL '10' SECOND",
    );
    refused(
        &window("HOP(TABLE bid, DESCRIPTOR(t), INTERVAL '5' MINUTE, INTERVAL '1' MINUTE)"),
        2,
        72,
        "longer than the size",
        "first the slide, then the size",
    );
    refused(
        &window("HOP(TABLE bid, DESCRIPTOR(t), INTERVAL '0.001' SECOND, INTERVAL '1' DAY)"),
        2,
        76,
        "each row would be in 86400000 windows",
        "first the slide, then the size",
    );
    refused(
        &window("SESSION(TABLE bid PARTITION BY auction, DESCRIPTOR(t))"),
        2,
        12,
        "SESSION lacks its argument GAP",
        "PARTITION BY key",
    );
    refused(
        &window("TUMBLE(TABLE bid PARTITION BY auction, DESCRIPTOR(t), INTERVAL '1' MINUTE)"),
        2,
        12,
        "TUMBLE has no PARTITION BY",
        "GROUP BY the columns",
    );
    refused(
        &window("CUMULATE(TABLE bid, DESCRIPTOR(t), INTERVAL '2' MINUTE, INTERVAL '5' MINUTE)"),
        2,
        77,
        "a whole number of steps",
        "first the step, then the size",
    );
}

#[test]
fn windows_say_what_is_wrong_with_their_table_and_place() {
    let _cases = Cases;
    refused(&window("TUMBLE(bid, DESCRIPTOR(t), INTERVAL '1' MINUTE)"), 2, 19, "bid is no table", "TABLE t");
    refused(
        &window("TUMBLE(TABLE bids, DESCRIPTOR(t), INTERVAL '1' MINUTE)"),
        2,
        25,
        "no table bids",
        "did you mean bid?",
    );
    refused(
        &window("TUMBLE(DATA => TABLE bid, TIMECOL => DESCRIPTOR(t), LENGTH => INTERVAL '1' MINUTE)"),
        2,
        12,
        "lacks its argument SIZE",
        "write TUMBLE(",
    );
    refused(
        "INSERT INTO one SELECT COUNT(*) FROM bid GROUP BY auction + 1, SESSION(t, INTERVAL '1' MINUTE)",
        1,
        51,
        "a session of auction + 1",
        "in a view",
    );
    refused(
        "INSERT INTO one SELECT TUMBLE_START(t, INTERVAL '1' MINUTE) FROM bid",
        1,
        24,
        "TUMBLE_START needs",
        "window_start",
    );
}

#[test]
fn rows_that_change_go_into_no_operator_that_cannot_take_them() {
    let _cases = Cases;
    refused(
        "CREATE VIEW v AS SELECT auction, COUNT(*) AS bids FROM bid GROUP BY auction;\nINSERT INTO one\nSELECT SUM(bids) FROM (SELECT bids, CURRENT_TIMESTAMP AS seen FROM v) GROUP BY seen",
        3,
        12,
        "an aggregation over seen, which the clock gives: it is another whenever a row changes (GroupAggregate of line 7 updates them)",
        "take the time below",
    );
    refused(
        "CREATE VIEW v AS SELECT auction, COUNT(*) AS bids, MAX(t) AS newest FROM bid GROUP BY auction;\nINSERT INTO one SELECT auction FROM v\nWHERE newest > CURRENT_TIMESTAMP",
        2,
        17,
        "a condition on the clock over rows that change (GroupAggregate of line 7 updates them)",
        "below what updates the rows",
    );
    refused(
        "INSERT INTO texts SELECT LISTAGG(DISTINCT channel), 1 FROM bid",
        1,
        43,
        "LISTAGG with DISTINCT",
        "DISTINCT rows in a subquery",
    );
    refused(
        "INSERT INTO texts SELECT LISTAGG(channel, CAST(price AS STRING)), 1 FROM bid",
        1,
        48,
        "LISTAGG with another separator for each row",
        "LISTAGG(text, ', ')",
    );
    refused(
        "INSERT INTO one SELECT LAST_VALUE(price)\nFROM bid GROUP BY TUMBLE(t, INTERVAL '1' MINUTE)",
        1,
        35,
        "LAST_VALUE in a window",
        "MIN or MAX",
    );
    refused(
        "INSERT INTO one SELECT auction FROM (\n SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price) AS n FROM bid) WHERE n > 2",
        2,
        44,
        "ROW_NUMBER() without a last number would keep all rows",
        "WHERE row_num <= 10",
    );
    refused(
        "INSERT INTO one SELECT auction FROM (\n SELECT *, RANK() OVER (PARTITION BY auction ORDER BY price) AS n FROM bid) WHERE n < 1",
        2,
        38,
        "no row has such a RANK()",
        "change the condition",
    );
    refused(
        "INSERT INTO one SELECT auction FROM (\n SELECT *, ROW_NUMBER() OVER (PARTITION BY auction) AS n FROM bid) WHERE n <= 2",
        2,
        44,
        "ROW_NUMBER() lacks its ORDER BY",
        "OVER (PARTITION BY … ORDER BY …)",
    );
    refused(
        "INSERT INTO one SELECT auction FROM (\n SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY p DESC) AS n FROM B) WHERE n <= 2",
        2,
        44,
        "by processing time, the newest first",
        "WHERE row_num = 1",
    );
    refused(
        "INSERT INTO one SELECT DENSE_RANK() FROM bid",
        1,
        24,
        "DENSE_RANK() lacks its OVER",
        "DENSE_RANK(…) OVER (",
    );
    refused(
        "CREATE VIEW v AS SELECT auction, COUNT(*) AS bids, PROCTIME() AS p FROM bid GROUP BY auction;\nINSERT INTO two\nSELECT auction, SUM(bids) OVER (ORDER BY p) FROM v",
        3,
        21,
        "OVER over rows that change (GroupAggregate of line 7 updates them)",
        "TABLE(TUMBLE(",
    );
}

#[test]
fn a_watermark_needs_a_time() {
    let _cases = Cases;
    let table = |columns: &str| format!("CREATE TABLE x (\n{columns}\n) WITH ('connector' = 'test')");
    refused(&table("a BIGINT, WATERMARK FOR a AS a"), 2, 25, "the column a is BIGINT", "TO_TIMESTAMP_LTZ(a, 3)");
    refused(&table("a TIMESTAMP, WATERMARK FOR a AS a"), 2, 28, "the column a is TIMESTAMP(6)", "a TIMESTAMP(3)");
    refused(&table("a TIMESTAMP(3), WATERMARK FOR b AS a"), 2, 31, "has no column b", "columns are a");
    refused(&table("a TIMESTAMP(3), WATERMARK FOR a AS c"), 2, 36, "no column c", "columns here are a");
    refused(&table("a TIMESTAMP(3), a INT"), 2, 17, "two columns a", "another name");
    refused(&table("a BIGINT, b AS LOVER(a)"), 2, 16, "no function LOVER", "did you mean LOWER?");
    refused(&table("a BIGINT, b AS c + 1"), 2, 16, "no column c", "columns here are a");
}

#[test]
fn an_empty_script_asks_for_an_insert() {
    let _cases = Cases;
    refused("", 0, 14, "the script inserts nothing", "add INSERT INTO");
    assert!(planned("").err().unwrap().to_string().starts_with("line 1, column 1: the script inserts nothing"));
    assert!(planned(NEXMARK).err().unwrap().message.contains("inserts nothing"));
}
