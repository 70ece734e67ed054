//! Statements as people write them: what they change, and what they leave as it is.

use weir_sql::explain;

use crate::support::planned;

const TABLES: &str =
    "CREATE TABLE bid (auction BIGINT, price BIGINT, t TIMESTAMP(3), WATERMARK FOR t AS t - INTERVAL '5' SECOND) \
                      WITH ('connector' = 'test');
CREATE TABLE two (a BIGINT, b BIGINT) WITH ('connector' = 'test');
";

const INSERT: &str = "INSERT INTO two SELECT auction, price FROM bid";

/// What runs, without the fingerprint: that has the script's texts in it.
#[track_caller]
fn runs(script: &str) -> String {
    let graph = planned(script).unwrap_or_else(|error| panic!("{error}\n{script}"));
    serde_json::to_string_pretty(&explain(&graph).stages).unwrap()
}

/// What runs, over the tables above.
#[track_caller]
fn same(one: &str, other: &str) {
    assert_eq!(runs(&format!("{TABLES}{one}")), runs(&format!("{TABLES}{other}")), "{one}\n{other}");
}

#[track_caller]
fn warned(script: &str, warnings: &[(&str, &str)]) {
    let graph = planned(&format!("{TABLES}{script}")).unwrap_or_else(|error| panic!("{error}\n{script}"));
    let found: Vec<(&str, &str)> =
        graph.warnings.iter().map(|warning| (warning.operator.as_str(), warning.message.as_str())).collect();
    assert_eq!(found.len(), warnings.len(), "{script}: {found:?}");
    for ((operator, message), (at, text)) in found.iter().zip(warnings) {
        assert!(operator == at && message.contains(text), "{script}: {operator}: {message} is not {at}: {text}");
    }
}

#[track_caller]
fn refused(script: &str, line: u64, column: u64, message: &str) {
    let error = planned(&format!("{TABLES}{script}")).err().unwrap_or_else(|| panic!("{script} is planned"));
    let place = (error.line.map(|line| line.saturating_sub(2)), error.column);
    assert!(place == (Some(line), Some(column)) && error.message.contains(message), "{script}: {place:?} {error}");
}

#[test]
fn what_changes_nothing_leaves_the_plan_as_it_is() {
    for script in [
        "DROP TABLE IF EXISTS gone; {}",
        "DROP TEMPORARY TABLE IF EXISTS gone; DROP VIEW IF EXISTS gone; {};",
        "DROP FUNCTION IF EXISTS gone; DROP TEMPORARY SYSTEM FUNCTION IF EXISTS gone; {}",
        "DROP DATABASE IF EXISTS gone CASCADE; DROP CATALOG IF EXISTS gone; {}",
        "CREATE CATALOG c WITH ('type' = 'generic_in_memory'); {}",
        "CREATE DATABASE IF NOT EXISTS default_database COMMENT 'x'; USE default_database; {}",
        "SET table.exec.mini-batch.enabled = true; RESET table.exec.mini-batch.enabled; RESET; {}",
        "SHOW TABLES; SHOW CREATE TABLE bid; DESCRIBE two; DESC two; SHOW CURRENT DATABASE; EXPLAIN INSERT INTO two SELECT 1, 2; {}",
        "/* ä */ -- ö ;\n{} -- no end",
        "INSERT INTO default_database.two SELECT auction, price FROM default_catalog.default_database.bid AS bid",
        "INSERT INTO two SELECT bid.auction, bid.price FROM default_database.bid",
        "INSERT INTO two (a, b) SELECT auction, price FROM bid",
        "EXECUTE STATEMENT SET BEGIN {}; END;",
        "BEGIN STATEMENT SET;\n{};\nEND",
        "CREATE TEMPORARY VIEW v AS SELECT 1 AS one; DROP VIEW v; {}",
        "CREATE TABLE bid2 (LIKEd INT) WITH ('connector' = 'test'); CREATE OR REPLACE TABLE bid2 (a INT) WITH ('connector' = 'test'); {}",
        "EXPLAIN PLAN FOR {}; EXPLAIN CHANGELOG_MODE {}; {}",
    ] {
        same(&script.replace("{}", INSERT), INSERT);
    }
}

#[test]
fn a_name_means_what_it_means_where_it_is_written() {
    let replaced = format!(
        "{INSERT}; DROP TABLE bid; CREATE TABLE bid (x STRING) WITH ('connector' = 'test');
         CREATE TABLE texts (a STRING) WITH ('connector' = 'test'); INSERT INTO texts SELECT x FROM bid"
    );
    let plan = runs(&format!("{TABLES}{replaced}"));
    assert!(plan.contains("auction BIGINT") && plan.contains("x STRING"), "{plan}");
    refused(
        "INSERT INTO two SELECT auction, price FROM later; CREATE TABLE later (a INT) WITH ('connector' = 'test')",
        1,
        44,
        "no table later",
    );
    refused(&format!("DROP TABLE bid; {INSERT}"), 1, 60, "there is no table bid");
    refused("DROP TABLE gone", 1, 12, "there is no table gone");
    refused("CREATE VIEW v AS SELECT auction FROM bid; DROP TABLE v", 1, 54, "v is a view");
}

#[test]
fn catalogs_and_databases_hold_names_apart() {
    let apart = "CREATE CATALOG c WITH ('type' = 'generic_in_memory', 'default-database' = 'd');
        CREATE DATABASE c.e; USE CATALOG c; CREATE TABLE bid (y INT) WITH ('connector' = 'test');
        USE e; CREATE TABLE bid (z INT) WITH ('connector' = 'test'); CREATE TABLE out (z INT) WITH ('connector' = 'test');
        INSERT INTO out SELECT z FROM bid; INSERT INTO c.e.out SELECT bid.y FROM d.bid; USE default_catalog.default_database;
        INSERT INTO two SELECT auction, b.z FROM bid, (SELECT z FROM c.e.bid) b";
    let error = planned(&format!("{TABLES}{apart}"));
    // Joins are none of this test's business.
    if let Err(error) = error {
        assert!(error.message.contains("join"), "{error}");
    }
    let apart = apart.rsplit_once("INSERT").unwrap().0;
    let plan = runs(&format!("{TABLES}{apart}"));
    for known in ["z INT", "y INT", "c.e.out", "c.d.bid"] {
        assert!(plan.contains(known), "{known} is not in {plan}");
    }
    refused("USE CATALOG c", 1, 13, "there is no catalog c");
    refused("USE d", 1, 5, "there is no database d in default_catalog");
    refused("CREATE TABLE d.t (a INT) WITH ('connector' = 'test')", 1, 14, "there is no database d");
    refused("CREATE CATALOG h WITH ('type' = 'hive')", 1, 24, "catalogs of type 'hive'");
    refused(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT) WITH ('connector' = 'test'); DROP DATABASE d",
        1,
        88,
        "there are tables",
    );
    refused("DROP DATABASE default_database", 1, 15, "in use");
}

#[test]
fn a_table_like_another_takes_over_what_it_says() {
    let base = "CREATE TABLE base (a BIGINT, b BIGINT, c AS a + b, t TIMESTAMP(3), WATERMARK FOR t AS t, PRIMARY KEY (a) NOT ENFORCED)
        WITH ('connector' = 'test', 'bounded' = 'true');";
    for (like, whole) in [
        (
            "CREATE TABLE l LIKE base;",
            "CREATE TABLE l (a BIGINT, b BIGINT, c AS a + b, t TIMESTAMP(3), WATERMARK FOR t AS t, PRIMARY KEY (a) NOT ENFORCED)
                WITH ('connector' = 'test', 'bounded' = 'true');",
        ),
        (
            "CREATE TABLE l (d INT, WATERMARK FOR t AS t - INTERVAL '1' SECOND) WITH ('bounded' = 'false') LIKE base (
                EXCLUDING CONSTRAINTS OVERWRITING WATERMARKS EXCLUDING GENERATED);",
            "CREATE TABLE l (a BIGINT, b BIGINT, t TIMESTAMP(3), d INT, WATERMARK FOR t AS t - INTERVAL '1' SECOND)
                WITH ('connector' = 'test', 'bounded' = 'false');",
        ),
        (
            "CREATE TABLE l (d INT) WITH ('connector' = 'test') LIKE base (EXCLUDING ALL);",
            "CREATE TABLE l (a BIGINT, b BIGINT, t TIMESTAMP(3), d INT) WITH ('connector' = 'test');",
        ),
        (
            "CREATE TABLE l (c AS a * 2) LIKE base (OVERWRITING GENERATED);",
            "CREATE TABLE l (a BIGINT, b BIGINT, t TIMESTAMP(3), c AS a * 2, WATERMARK FOR t AS t, PRIMARY KEY (a) NOT ENFORCED)
                WITH ('connector' = 'test', 'bounded' = 'true');",
        ),
    ] {
        let read = "CREATE VIEW v AS SELECT * FROM l; INSERT INTO two SELECT a, COUNT(*) FROM v GROUP BY a";
        same(&format!("{base}{like}{read}"), &format!("{base}{whole}{read}"));
    }
    refused(&format!("{}CREATE TABLE l (a INT) LIKE base", base.replace('\n', " ")), 1, 189, "has a column a already");
    refused("CREATE TABLE l (WATERMARK FOR t AS t) LIKE bid", 1, 14, "bid has a watermark already");
    refused(
        "CREATE TABLE l WITH ('connector' = 'test') LIKE bid (INCLUDING OPTIONS)",
        1,
        22,
        "has the option 'connector'",
    );
    refused("CREATE TABLE l LIKE bid (OVERWRITING ALL)", 1, 26, "OVERWRITING ALL");
}

#[test]
fn a_table_as_a_query_is_a_table_and_an_insert() {
    same(
        "CREATE TABLE made WITH ('connector' = 'test') AS SELECT auction, price * 2 AS twice FROM bid",
        "CREATE TABLE made (auction BIGINT, twice BIGINT) WITH ('connector' = 'test');
         INSERT INTO made SELECT auction, price * 2 AS twice FROM bid",
    );
    same(
        "CREATE TABLE made (auction DECIMAL(20, 0), PRIMARY KEY (auction) NOT ENFORCED) WITH ('connector' = 'test')
         AS SELECT auction, price FROM bid",
        "CREATE TABLE made (auction DECIMAL(20, 0), price BIGINT, PRIMARY KEY (auction) NOT ENFORCED) WITH ('connector' = 'test');
         INSERT INTO made SELECT auction, price FROM bid",
    );
    refused(
        "CREATE TABLE made (x INT) WITH ('connector' = 'test') AS SELECT auction FROM bid",
        1,
        20,
        "gives no column x",
    );
}

#[test]
fn alter_table_changes_options_and_names() {
    same(
        "ALTER TABLE bid SET ('bounded' = 'true'); INSERT INTO two SELECT auction, COUNT(*) FROM bid GROUP BY auction",
        "CREATE OR REPLACE TABLE bid (auction BIGINT, price BIGINT, t TIMESTAMP(3), WATERMARK FOR t AS t - INTERVAL '5' SECOND)
            WITH ('connector' = 'test', 'bounded' = 'true');
         INSERT INTO two SELECT auction, COUNT(*) FROM bid GROUP BY auction",
    );
    same(
        &format!(
            "ALTER TABLE bid SET ('bounded' = 'true'); ALTER TABLE bid RESET ('bounded'); ALTER TABLE bid RENAME TO b;
                  ALTER TABLE b RENAME TO bid; {INSERT}"
        ),
        INSERT,
    );
    refused("ALTER TABLE bid ADD x INT", 1, 17, "ALTER TABLE … ADD is not supported");
    refused("ALTER TABLE IF EXISTS gone RESET ('a'); ALTER TABLE gone RESET ('a')", 1, 53, "no table gone");
}

#[test]
fn of_an_option_that_is_given_twice_the_last_counts() {
    let twice =
        "CREATE TABLE x (a BIGINT, b BIGINT) WITH ('connector' = 'print', 'bounded' = 'true',\n'connector' = 'test');
        INSERT INTO two SELECT a, b FROM x";
    warned(twice, &[("line 4", "the option 'connector' is given twice: the last counts, 'test'")]);
    assert!(runs(&format!("{TABLES}{twice}")).contains("\"bounded\": true"));
}

#[test]
fn settings_stand_with_and_without_quotes() {
    warned(
        &format!(
            "SET execution.checkpointing.interval = 3s; SET 'parallelism.default'='4'; SET sql-client.execution.result-mode=TABLEAU;
             SET state.checkpoints.dir = file:///tmp/x; SET pipeline.name = a b; SET execution.runtime-mode = streaming; SET;
             SET table.exec.source.idle-timeout = 10 s;\nSET taskmanager.numberOfTaskSlots = 2; set pipeline.max-parallelism = 4; {INSERT}"
        ),
        &[("line 6", "tunes Flink's own processes"), ("line 6", "maxParallelism of the StreamJob")],
    );
}

#[test]
fn in_batch_mode_all_input_ends_and_no_row_is_late() {
    let batch = "SET execution.runtime-mode = batch;";
    refused(&format!("{batch} {INSERT}"), 1, 53, "reads input that never ends");
    let ends = format!("{batch} ALTER TABLE bid SET ('bounded' = 'true'); {INSERT}");
    let plan = runs(&format!("{TABLES}{ends}"));
    assert!(plan.contains("\"watermark\": false"), "{plan}");
}

#[test]
fn options_behind_a_name_act_and_other_hints_are_named() {
    let read = "INSERT INTO two SELECT auction, COUNT(*) FROM bid /*+ OPTIONS('bounded' = 'true') */ GROUP BY auction";
    let plan = runs(&format!("{TABLES}{read}"));
    assert!(plan.contains("\"bounded\": true"), "{plan}");
    warned(read, &[]);
    // Both are read, each as it says.
    let both = format!("{read}; INSERT INTO two SELECT auction, price FROM bid AS b");
    let plan = runs(&format!("{TABLES}{both}"));
    assert!(plan.contains("\"bounded\": true") && plan.contains("\"bounded\": false"), "{plan}");
    warned(
        "INSERT INTO two SELECT /*+ BROADCAST(bid), FROBNICATE */ auction, price FROM bid",
        &[("line 3", "BROADCAST has no effect"), ("line 3", "there is no hint FROBNICATE")],
    );
    warned(
        &format!("{INSERT} WHERE /*+ HERE */ price > 1"),
        &[("line 3", "the hint HERE stands where it has no effect")],
    );
    warned(
        "INSERT INTO two SELECT COUNT(*), 1 FROM TABLE(TUMBLE(TABLE bid /*+ OPTIONS('bounded'='true') */, DESCRIPTOR(t), \
         INTERVAL '1' MINUTES)) GROUP BY window_start, window_end",
        &[],
    );
    refused(&INSERT.replace("bid", "bid /*+ OPTIONS('bounded' = ) */"), 1, 48, "the hint cannot be read");
    refused(
        &format!("CREATE VIEW v AS SELECT * FROM bid; {}", INSERT.replace("bid", "v /*+ OPTIONS('a' = 'b') */")),
        1,
        80,
        "v is a view",
    );
    // What a table is written with.
    let written =
        "INSERT INTO two /*+ OPTIONS('changelog' = 'false') */ SELECT auction, COUNT(*) FROM bid GROUP BY auction";
    refused(written, 1, 13, "takes inserts only");
}

#[test]
fn rows_may_stand_in_the_script() {
    let plan = runs(&format!("{TABLES}INSERT INTO two VALUES (1, 2), (3, 4)"));
    assert!(plan.contains("\"bounded\": true"), "{plan}");
    for script in [
        "INSERT INTO two VALUES (1, NULL), (CAST(3 AS BIGINT), 4)",
        "INSERT INTO two (b) VALUES (1)",
        "INSERT INTO two SELECT a, 1 FROM (VALUES (1), (20000000000)) AS t(a)",
        "INSERT INTO two SELECT 1, 2",
        "INSERT INTO two SELECT 1, 2 UNION ALL SELECT 3, 4",
    ] {
        runs(&format!("{TABLES}{script}"));
    }
}
