//! Joins: which stages they become, what their rows do, what is said of their state, and what is refused.

use crate::support::planned;
use weir_engine::JobGraph;
use weir_sql::{PlanDescription, StageDescription, explain};

const TABLES: &str = "\
CREATE TABLE bid (auction BIGINT, bidder INT, price BIGINT, channel STRING, t TIMESTAMP(3), WATERMARK FOR t AS t - INTERVAL '5' SECOND) WITH ('connector' = 'test');
CREATE TABLE side (id BIGINT, name STRING, rate DECIMAL(10, 2)) WITH ('connector' = 'test');
CREATE TABLE ends (id BIGINT, bidder INT) WITH ('connector' = 'test', 'bounded' = 'true');
CREATE TABLE two (a BIGINT, b BIGINT) WITH ('connector' = 'test');
CREATE TABLE text2 (a BIGINT, b STRING) WITH ('connector' = 'test');
CREATE TABLE by_a (a BIGINT, b BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'test', 'changelog' = 'upsert');
";

#[track_caller]
fn graph(script: &str) -> JobGraph {
    planned(&format!("{TABLES}{script}")).unwrap_or_else(|error| panic!("{script}\n{error}"))
}

/// A line a stage: where its rows come from and by which keys, its operators, and what its rows do.
fn shape(graph: &JobGraph) -> Vec<String> {
    let PlanDescription { stages, .. } = explain(graph);
    let line = |stage: &StageDescription| {
        let from =
            stage.inputs.iter().map(|input| format!("{} {}({})", input.exchange, input.from, input.keys.join(", ")));
        let from: Vec<String> = from.map(|from| from.replace("()", "")).collect();
        let operators = stage.operators.iter().map(|operator| operator.name.clone());
        let ends = stage.source.iter().map(|source| source.table.clone());
        let ends = ends.chain(operators).chain(stage.sink.iter().map(|sink| sink.table.clone()));
        let rows: Vec<&str> = stage.changelog.iter().map(|changelog| changelog.rows.as_str()).collect();
        format!("{} | {} | {}", from.join(", "), ends.collect::<Vec<_>>().join(" -> "), rows.join("; "))
    };
    stages.iter().map(line).collect()
}

#[track_caller]
fn assert_shape(script: &str, expected: &[&str]) {
    assert_eq!(shape(&graph(script)), expected, "{script}");
}

#[test]
fn both_sides_come_by_their_keys_into_one_stage() {
    assert_shape(
        "INSERT INTO text2 SELECT b.price, s.name FROM bid b JOIN side s ON b.auction = s.id",
        &[
            " | bid -> Project | +I",
            " | side | +I",
            "hash 0(auction), hash 1(id) | InnerJoin(auction = id) -> Project -> text2 | +I",
        ],
    );
}

#[test]
fn keys_of_other_types_are_cast_and_what_is_computed_for_a_key_is_no_column_of_the_result() {
    assert_shape(
        "INSERT INTO two SELECT b.price, e.id FROM bid b JOIN ends e ON b.auction = e.bidder",
        &[
            " | bid -> Project | +I",
            " | ends -> Project | +I",
            "hash 0(auction), hash 1(e.bidder) | InnerJoin(auction = e.bidder) -> Project -> two | +I",
        ],
    );
    let plan = explain(&graph(
        "INSERT INTO text2 SELECT b.price, s.name FROM bid b JOIN side s ON MOD(b.auction, 10000) = s.id",
    ));
    let join =
        plan.stages.iter().flat_map(|stage| &stage.operators).find(|operator| operator.name.starts_with("InnerJoin"));
    let join = join.unwrap();
    assert!(join.name.contains("10000)) = id"), "{}", join.name);
    assert_eq!(join.columns, ["auction BIGINT", "price BIGINT", "id BIGINT", "name STRING"], "no key");
}

#[test]
fn each_kind_of_join_says_what_its_rows_do() {
    for (join, name, rows) in [
        ("JOIN", "InnerJoin", "+I"),
        ("INNER JOIN", "InnerJoin", "+I"),
        ("LEFT JOIN", "LeftJoin", "+I -D"),
        ("LEFT OUTER JOIN", "LeftJoin", "+I -D"),
        ("RIGHT JOIN", "RightJoin", "+I -D"),
        ("FULL OUTER JOIN", "FullJoin", "+I -D"),
    ] {
        let graph =
            graph(&format!("INSERT INTO two SELECT b.price, s.id FROM bid b {join} side s ON b.auction = s.id"));
        let lines = shape(&graph);
        let last = lines.last().unwrap();
        assert!(last.contains(name) && last.ends_with(&format!("| {rows}")), "{join}: {last}");
    }
}

#[test]
fn a_condition_that_drops_nulls_makes_an_outer_join_an_inner_one() {
    assert_shape(
        "INSERT INTO text2 SELECT b.price, s.name FROM bid b LEFT JOIN side s ON b.auction = s.id WHERE s.name > 'a'",
        &[
            " | bid -> Project | +I",
            " | side -> Filter(name@1 > a) | +I",
            "hash 0(auction), hash 1(id) | InnerJoin(auction = id) -> Project -> text2 | +I",
        ],
    );
}

#[test]
fn conditions_that_are_no_equalities_are_judged_pair_by_pair() {
    let lines = shape(&graph(
        "INSERT INTO two SELECT b.price, e.id FROM bid b LEFT JOIN ends e ON b.auction = e.id AND b.bidder < e.bidder",
    ));
    assert!(lines.last().unwrap().contains("LeftJoin(auction = id AND bidder@1 < bidder@4)"), "{lines:#?}");
}

#[test]
fn several_joins_stand_one_behind_the_other_whatever_the_order_of_the_tables() {
    let expected = [
        " | bid -> Project | +I",
        " | side | +I",
        "hash 0(auction), hash 1(id) | InnerJoin(auction = id) -> Project | +I",
        " | ends | +I",
        "hash 2(bidder), hash 3(bidder) | InnerJoin(bidder = bidder) -> Project -> two | +I",
    ];
    assert_shape(
        "INSERT INTO two SELECT b.price, e.id FROM bid b JOIN side s ON b.auction = s.id JOIN ends e ON b.bidder = e.bidder",
        &expected,
    );
    let lines = shape(&graph(
        "INSERT INTO two SELECT b.price, e.id FROM side s, ends e, bid b WHERE b.auction = s.id AND b.bidder = e.bidder",
    ));
    assert!(!lines.iter().any(|line| line.contains("single")), "{lines:#?}");
}

#[test]
fn a_join_of_a_table_with_itself_reads_it_once() {
    let graph = graph(
        "INSERT INTO two SELECT a.price, b.price FROM bid a JOIN bid b ON a.auction = b.bidder AND a.price < b.price",
    );
    let lines = shape(&graph);
    assert_eq!(lines.iter().filter(|line| line.contains("bid ") || line.ends_with("bid")).count(), 1, "{lines:#?}");
    let apart = graph.apart.as_ref().unwrap();
    let sources: Vec<_> = apart
        .stages
        .iter()
        .filter_map(|stage| match &stage.head {
            weir_engine::StageHead::Source(source) => Some(&source.kin),
            weir_engine::StageHead::Inputs(_) => None,
        })
        .collect();
    let [left, right] = sources.as_slice() else { panic!("{} sources", sources.len()) };
    assert_eq!(left.family, right.family);
    assert_ne!(left.discriminator, right.discriminator, "in a changed script they are told apart");
}

#[test]
fn two_aggregates_that_differ_by_a_filter_are_told_apart_in_a_changed_script() {
    let graph = graph(
        "INSERT INTO two SELECT l.n, r.n FROM (SELECT auction, COUNT(*) AS n FROM bid WHERE price > 1 GROUP BY auction) l
         JOIN (SELECT auction, COUNT(*) AS n FROM bid WHERE price < 9 GROUP BY auction) r ON l.auction = r.auction",
    );
    let told: Vec<&str> = graph
        .stages
        .iter()
        .flat_map(|stage| &stage.operators)
        .filter(|operator| operator.name.starts_with("GroupAggregate"))
        .map(|operator| operator.kin.discriminator.as_str())
        .collect();
    let [left, right] = told.as_slice() else { panic!("{told:?}") };
    assert_ne!(left, right);
}

#[test]
fn what_a_join_means_is_its_identity() {
    let join = |script: &str| {
        let graph = graph(script);
        let all = graph.stages.iter().flat_map(|stage| &stage.operators);
        all.filter(|operator| operator.name.contains("Join("))
            .map(|operator| operator.identity.clone())
            .collect::<Vec<_>>()
    };
    let select = "INSERT INTO two SELECT l.price, r.price FROM bid l";
    let scripts = [
        format!("{select} JOIN bid r ON l.auction = r.auction"),
        format!("{select} LEFT JOIN bid r ON l.auction = r.auction"),
        format!("{select} JOIN bid r ON l.auction = r.bidder"),
        format!("{select} JOIN bid r ON l.auction = r.auction AND l.price < r.price"),
        format!("{select} JOIN bid r ON l.auction = r.auction AND r.price < l.price"),
        format!("{select} JOIN bid r ON l.auction IS NOT DISTINCT FROM r.auction"),
        "INSERT INTO two SELECT r.price, l.bidder FROM bid l JOIN bid r ON l.auction = r.auction".to_string(),
    ];
    let mut all: Vec<String> = scripts.iter().flat_map(|script| join(script)).collect();
    assert_eq!(all.len(), scripts.len());
    assert_eq!(
        join(
            "CREATE VIEW v AS SELECT * FROM bid; INSERT INTO two SELECT x.price, y.price FROM v x JOIN v y ON y.auction = x.auction"
        ),
        all[..1],
        "names and the order of a comparison are none of it"
    );
    all.sort();
    all.dedup();
    assert_eq!(all.len(), scripts.len());
}

#[test]
fn a_join_of_rows_that_change_takes_them_back_and_its_key_is_known_where_no_update_moves_a_row() {
    let counts = "(SELECT auction, COUNT(*) AS n FROM bid GROUP BY auction)";
    let by_key =
        format!("INSERT INTO by_a SELECT l.auction, r.n FROM {counts} l JOIN {counts} r ON l.auction = r.auction");
    let lines = shape(&graph(&by_key));
    assert!(lines.last().unwrap().ends_with("| +I -D"), "{lines:#?}");
    // A count that changes moves to another subtask: what comes of it may come in another order.
    let moves = format!("INSERT INTO by_a SELECT l.auction, r.n FROM {counts} l JOIN {counts} r ON l.n = r.auction");
    let Err(error) = planned(&format!("{TABLES}{moves}")) else { panic!("is planned") };
    assert!(error.message.contains("the primary key of by_a is a"), "{error}");
}

fn warnings(script: &str) -> Vec<String> {
    graph(script).warnings.into_iter().map(|warning| format!("{}: {}", warning.operator, warning.message)).collect()
}

#[test]
fn state_without_bound_and_a_join_in_one_subtask_are_warned_of() {
    let bounded = warnings("INSERT INTO two SELECT l.id, r.id FROM ends l JOIN ends r ON l.id = r.bidder");
    assert!(bounded.is_empty(), "{bounded:?}");
    let [keeps] =
        warnings("INSERT INTO two SELECT b.price, s.id FROM bid b JOIN side s ON b.auction = s.id").try_into().unwrap();
    assert!(keeps.starts_with("InnerJoin(auction = id): keeps all rows of both sides for ever"), "{keeps}");
    for join in ["bid b CROSS JOIN side s", "bid b, side s", "bid b JOIN side s ON b.auction > s.id"] {
        let [single, _] = warnings(&format!("INSERT INTO two SELECT b.price, s.id FROM {join}")).try_into().unwrap();
        assert!(single.contains("all rows of both go to one subtask"), "{join}: {single}");
    }
    let lines = shape(&graph("INSERT INTO two SELECT b.price, s.id FROM bid b CROSS JOIN side s"));
    assert!(lines.last().unwrap().starts_with("single 0, single 1 | InnerJoin()"), "{lines:#?}");
}

#[test]
fn using_compares_as_an_equality_does() {
    let using =
        graph("INSERT INTO two SELECT b.price, id FROM ends b2 JOIN side s USING (id) JOIN bid b ON b.auction = b2.id");
    let on = graph(
        "INSERT INTO two SELECT b.price, b2.id FROM ends b2 JOIN side s ON b2.id = s.id JOIN bid b ON b.auction = b2.id",
    );
    assert_eq!(using.fingerprint, on.fingerprint);
}

#[track_caller]
fn refused(script: &str, line: u64, column: u64, message: &str, remedy: &str) {
    let Err(error) = planned(&format!("{TABLES}{script}")) else { panic!("{script}\n is planned") };
    let place = (error.line.map(|line| line - 6), error.column);
    assert_eq!(place, (Some(line), Some(column)), "{script}\n{error}");
    assert!(error.message.contains(message) && error.remedy.contains(remedy), "{script}\n{error}");
}

#[test]
fn joins_that_flink_does_not_have_are_refused_and_so_is_what_would_be_wrong() {
    let select = "INSERT INTO two SELECT b.price, s.id FROM bid b";
    refused(&format!("{select} LEFT SEMI JOIN side s ON b.auction = s.id"), 1, 64, "SEMI JOIN", "EXISTS");
    refused(&format!("{select} LEFT ANTI JOIN side s ON b.auction = s.id"), 1, 64, "ANTI JOIN", "NOT IN");
    refused(&format!("{select} JOIN side s"), 1, 54, "no condition", "CROSS JOIN");
    refused(&format!("{select} FULL JOIN ends s USING (bidder)"), 1, 59, "USING", "COALESCE");
    refused(
        "INSERT INTO two SELECT * FROM bid b JOIN ends s USING (bidder)",
        1,
        24,
        "* over a join",
        "name the columns",
    );
    refused(
        &format!("{select} JOIN side s ON b.auction = s.name"),
        1,
        64,
        "does not take BIGINT and STRING: write a CAST",
        "",
    );
    refused(&format!("{select} JOIN side s ON b.auction = s.no"), 1, 76, "no column s.no", "");
    refused("INSERT INTO two SELECT id, 1 FROM ends b JOIN side s ON b.id = s.id", 1, 24, "id is ambiguous", "alias");
    refused(
        "INSERT INTO two SELECT COUNT(*), 1 FROM bid b JOIN side s ON b.auction = s.id GROUP BY TUMBLE(t, INTERVAL '1' HOUR)",
        1,
        88,
        "windows one table",
        "GROUP BY window_start",
    );
}

#[test]
fn subqueries_in_conditions_are_semi_and_anti_joins() {
    let select = "INSERT INTO two SELECT auction, price FROM bid WHERE";
    for (condition, name, rows) in [
        ("auction IN (SELECT id FROM side)", "SemiJoin(auction = id)", "| +I"),
        ("NOT (auction NOT IN (SELECT id FROM side))", "SemiJoin(auction = id)", "| +I"),
        ("EXISTS (SELECT 1 FROM side WHERE side.id = bid.auction)", "SemiJoin(auction = id)", "| +I"),
        ("NOT EXISTS (SELECT * FROM side WHERE side.id = bid.auction)", "AntiJoin(auction = id)", "| +I -D"),
        (
            "EXISTS (SELECT * FROM side WHERE side.id = bid.auction AND bid.price < side.id)",
            "SemiJoin(auction = id AND",
            "| +I",
        ),
    ] {
        let graph = graph(&format!("{select} {condition}"));
        let lines = shape(&graph);
        let last = lines.last().unwrap();
        assert!(last.starts_with("hash") && last.contains(name) && last.ends_with(rows), "{condition}: {lines:#?}");
    }
    let not_in = graph(&format!("{select} auction NOT IN (SELECT id FROM side)"));
    let last = shape(&not_in).pop().unwrap();
    assert!(last.starts_with("single 0, single 1 | NotIn(auction = id)"), "{last}");
    assert!(not_in.warnings[0].message.contains("write NOT EXISTS"), "{:?}", not_in.warnings);
    let correlated = graph(&format!("{select} auction NOT IN (SELECT id FROM ends WHERE ends.bidder = bid.bidder)"));
    let last = shape(&correlated).pop().unwrap();
    assert!(last.starts_with("hash 0(bidder), hash 1(bidder) | NotIn(auction = id AND bidder = bidder)"), "{last}");
}

#[test]
fn sets_of_rows_are_semi_and_anti_joins_of_distinct_rows() {
    for (operator, name) in [("INTERSECT", "SemiJoin"), ("EXCEPT", "AntiJoin")] {
        let lines = shape(&graph(&format!(
            "INSERT INTO two SELECT auction, price FROM bid {operator} SELECT id, id FROM side"
        )));
        let last = lines.last().unwrap();
        assert!(last.contains(name) && last.starts_with("hash"), "{operator}: {lines:#?}");
    }
}

#[test]
fn a_subquery_as_a_value_is_a_left_join_with_one_row() {
    let lines = shape(&graph("INSERT INTO two SELECT auction, (SELECT MAX(id) FROM side) FROM bid"));
    assert!(lines.iter().any(|line| line.contains("LeftJoin()")), "{lines:#?}");
    let lines = shape(&graph(
        "INSERT INTO two SELECT auction, (SELECT MAX(id) FROM ends WHERE ends.bidder = bid.bidder) FROM bid",
    ));
    assert!(lines.iter().any(|line| line.contains("LeftJoin(bidder = bidder)")), "{lines:#?}");
}

#[test]
fn subqueries_that_are_no_joins_are_refused() {
    let select = "INSERT INTO two SELECT auction, price FROM bid WHERE";
    refused(&format!("{select} price > 1 OR auction IN (SELECT id FROM side)"), 1, 67, "within OR", "UNION");
    refused(
        "INSERT INTO two SELECT auction, CASE WHEN EXISTS (SELECT 1 FROM side) THEN 1 END FROM bid",
        1,
        51,
        "as values",
        "WHERE",
    );
    refused(&format!("{select} price > (SELECT id FROM side)"), 1, 54, "several rows", "MAX");
    refused(&format!("{select} channel IN (SELECT id FROM side)"), 1, 73, "STRING with BIGINT", "CAST");
    refused(&format!("{select} (auction, price) IN (SELECT id, id FROM side)"), 1, 55, "several columns IN", "EXISTS");
    refused(
        "INSERT INTO two SELECT b.auction, 1 FROM bid b JOIN side s ON b.auction IN (SELECT id FROM ends)",
        1,
        63,
        "subquery in ON",
        "WHERE",
    );
}

const CLICKS: &str =
    "CREATE TABLE click (auction BIGINT, n BIGINT, s TIMESTAMP(3), WATERMARK FOR s AS s) WITH ('connector' = 'test');";

#[test]
fn bounds_of_time_bound_the_state_and_what_comes_out_is_final() {
    for (join, name) in [
        ("JOIN", "InnerIntervalJoin"),
        ("LEFT JOIN", "LeftIntervalJoin"),
        ("RIGHT JOIN", "RightIntervalJoin"),
        ("FULL JOIN", "FullIntervalJoin"),
    ] {
        let graph = graph(&format!(
            "{CLICKS} INSERT INTO two SELECT price, n FROM bid {join} click ON bid.auction = click.auction
             AND t BETWEEN s - INTERVAL '5' MINUTE AND s + INTERVAL '10' SECOND"
        ));
        assert!(graph.warnings.is_empty(), "{:?}", graph.warnings);
        let lines = shape(&graph);
        let last = lines.last().unwrap();
        let expected = format!("{name}(auction = auction AND t - s from -5m to 10s)");
        assert!(last.contains(&expected) && last.ends_with("| +I"), "{last}");
        let plan = explain(&graph);
        let state = plan.stages.last().unwrap().operators[0].state.as_ref().unwrap();
        let bound = "5m of event time on the left, and 10s on the right";
        assert_eq!(state.bounded_by.as_deref(), Some(bound));
    }
    let commas = graph(&format!(
        "{CLICKS} INSERT INTO two SELECT price, n FROM bid, click WHERE bid.auction = click.auction AND t >= s
         AND t < s + INTERVAL '10' SECOND AND price < n"
    ));
    let lines = shape(&commas);
    assert!(lines.last().unwrap().contains("InnerIntervalJoin("), "{lines:#?}");
    let one_bound = graph(&format!(
        "{CLICKS} INSERT INTO two SELECT price, n FROM bid JOIN click ON bid.auction = click.auction AND t >= s"
    ));
    assert!(shape(&one_bound).last().unwrap().contains("InnerJoin("));
}

#[test]
fn the_times_of_a_join_within_bounds_of_time_cut_windows() {
    let joined = "CREATE VIEW both AS SELECT price, t, s FROM bid JOIN click ON bid.auction = click.auction
        AND t BETWEEN s - INTERVAL '1' MINUTE AND s;";
    let windows = "SELECT SUM(price), COUNT(*) FROM TABLE(TUMBLE(TABLE both, DESCRIPTOR(t), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end";
    let lines = shape(&graph(&format!("{CLICKS} {joined} INSERT INTO two {windows}")));
    assert!(lines.iter().any(|line| line.contains("WindowAggregate(")), "{lines:#?}");
    let regular = joined.replace("\n        AND t BETWEEN s - INTERVAL '1' MINUTE AND s", "");
    assert!(planned(&format!("{TABLES}{CLICKS} {regular} INSERT INTO two {windows}")).is_err());
}

#[test]
fn a_window_of_maxima_bounds_a_join_with_what_it_is_made_of() {
    let lines = graph(
        "INSERT INTO two SELECT b.auction, b.price FROM bid b JOIN (SELECT MAX(price) AS high, window_end AS till
         FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '10' SECOND)) GROUP BY window_start, window_end) m
         ON b.price = m.high AND b.t BETWEEN m.till - INTERVAL '10' SECOND AND m.till",
    );
    assert!(lines.warnings.is_empty(), "{:?}", lines.warnings);
    assert!(shape(&lines).last().unwrap().contains("InnerIntervalJoin(price = high"), "{:#?}", shape(&lines));
}

#[test]
fn rows_that_change_are_no_side_of_a_join_within_bounds_of_time() {
    let script = format!(
        "{TABLES}{CLICKS} INSERT INTO two SELECT l.price, n FROM (SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY auction
         ORDER BY t DESC) AS r FROM bid) WHERE r = 1) l JOIN click ON l.auction = click.auction AND l.t BETWEEN s AND s + INTERVAL '1' MINUTE"
    );
    let Err(error) = planned(&script) else { panic!("is planned") };
    assert!(error.message.contains("over rows that change (Deduplicate"), "{error}");
    assert!(error.line.is_some() && error.remedy.contains("CAST(t AS TIMESTAMP(3))"), "{error}");
}

const WINDOWED: &str = "\
CREATE TABLE click (auction BIGINT, n BIGINT, s TIMESTAMP(3), WATERMARK FOR s AS s) WITH ('connector' = 'test');
CREATE VIEW bids AS SELECT * FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '10' SECOND));
CREATE VIEW clicks AS SELECT * FROM TABLE(TUMBLE(TABLE click, DESCRIPTOR(s), INTERVAL '10' SECOND));
CREATE VIEW longer AS SELECT * FROM TABLE(TUMBLE(TABLE click, DESCRIPTOR(s), INTERVAL '20' SECOND));
";

#[test]
fn rows_of_the_same_windows_are_joined_until_these_close() {
    let same = "b.auction = c.auction AND b.window_start = c.window_start AND b.window_end = c.window_end";
    for (join, name) in [
        ("JOIN", "InnerWindowJoin"),
        ("LEFT JOIN", "LeftWindowJoin"),
        ("RIGHT JOIN", "RightWindowJoin"),
        ("FULL JOIN", "FullWindowJoin"),
    ] {
        let graph =
            graph(&format!("{WINDOWED} INSERT INTO two SELECT b.price, c.n FROM bids b {join} clicks c ON {same}"));
        assert!(graph.warnings.is_empty(), "{:?}", graph.warnings);
        let lines = shape(&graph);
        let last = lines.last().unwrap();
        assert!(last.contains(&format!("{name}(")) && last.ends_with("| +I"), "{last}");
        let plan = explain(&graph);
        let state = plan.stages.last().unwrap().operators[0].state.as_ref().unwrap();
        assert_eq!(state.bounded_by.as_deref(), Some("the rows of both sides in windows that are open"));
    }
    for (condition, name) in [("EXISTS", "SemiWindowJoin"), ("NOT EXISTS", "AntiWindowJoin")] {
        let graph = graph(&format!(
            "{WINDOWED} INSERT INTO two SELECT auction, price FROM bids b WHERE {condition} (SELECT * FROM clicks c WHERE {same})"
        ));
        let last = shape(&graph).pop().unwrap();
        assert!(last.contains(&format!("{name}(")) && last.ends_with("| +I"), "{last}");
    }
}

#[test]
fn rows_of_other_windows_are_joined_as_any_rows_are() {
    for (right, condition) in [
        ("clicks", "b.window_end = c.window_end"),
        ("clicks", "b.window_start = c.window_start"),
        ("longer", "b.window_start = c.window_start AND b.window_end = c.window_end"),
        ("clicks", "b.window_start = c.window_end AND b.window_end = c.window_start"),
    ] {
        let lines = shape(&graph(&format!(
            "{WINDOWED} INSERT INTO two SELECT b.price, c.n FROM bids b JOIN {right} c ON b.auction = c.auction AND {condition}"
        )));
        assert!(lines.last().unwrap().contains("InnerJoin("), "{right} {condition}: {lines:#?}");
    }
}

#[test]
fn windows_go_on_behind_a_join_of_windows_where_they_are_no_nulls() {
    let joined = |join: &str| {
        format!(
            "{WINDOWED} CREATE VIEW both AS SELECT b.price, c.n, b.window_start, b.window_end, b.window_time FROM bids b {join}
             clicks c ON b.auction = c.auction AND b.window_start = c.window_start AND b.window_end = c.window_end;
             INSERT INTO two SELECT SUM(price), COUNT(*) FROM both GROUP BY window_start, window_end"
        )
    };
    for join in ["JOIN", "LEFT JOIN"] {
        let lines = shape(&graph(&joined(join)));
        assert!(lines.iter().any(|line| line.contains("WindowAggregate(")), "{join}: {lines:#?}");
    }
    for join in ["RIGHT JOIN", "FULL JOIN"] {
        let lines = shape(&graph(&joined(join)));
        assert!(lines.iter().any(|line| line.contains("GroupAggregate(")), "{join}: {lines:#?}");
    }
    // The rows come when their windows close: by their own time they would be late.
    let by_own_time = format!(
        "{TABLES}{WINDOWED} CREATE VIEW both AS SELECT b.price, b.t FROM bids b JOIN clicks c ON b.auction = c.auction
         AND b.window_start = c.window_start AND b.window_end = c.window_end;
         INSERT INTO two SELECT SUM(price), COUNT(*) FROM TABLE(TUMBLE(TABLE both, DESCRIPTOR(t), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end"
    );
    assert!(planned(&by_own_time).is_err());
}

#[test]
fn the_first_rows_of_a_window_are_put_out_when_it_closes() {
    let first = |over: &str, condition: &str| {
        let graph = graph(&format!(
            "{WINDOWED} INSERT INTO two SELECT auction, price FROM (SELECT *, {over} AS rn FROM bids) WHERE {condition}"
        ));
        shape(&graph).pop().unwrap()
    };
    let windows = "window_start, window_end";
    let last = first(&format!("ROW_NUMBER() OVER (PARTITION BY {windows} ORDER BY price DESC)"), "rn <= 3");
    assert!(last.contains("WindowTopN(ROW_NUMBER 1 to 3 by price DESC of each window_start, window_end)"), "{last}");
    assert!(last.ends_with("| +I"), "{last}");
    let last = first(&format!("ROW_NUMBER() OVER (PARTITION BY {windows}, auction ORDER BY t DESC)"), "rn = 1");
    assert!(last.contains("WindowDeduplicate(keep last row of window_start, window_end, auction)"), "{last}");
    assert!(last.ends_with("| +I"), "{last}");
    for (over, condition) in [
        (format!("RANK() OVER (PARTITION BY {windows} ORDER BY price DESC)"), "rn <= 3"),
        ("ROW_NUMBER() OVER (PARTITION BY window_end ORDER BY price DESC)".to_string(), "rn <= 3"),
    ] {
        let last = first(&over, condition);
        assert!(last.contains(" TopN("), "{over}: {last}");
    }
}
