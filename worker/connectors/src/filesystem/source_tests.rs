use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMillisecondType};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use weir_engine::api::source::SourcePoll;
use weir_engine::data::watermark::Watermarks;

use super::bucket::{Bucket, Objects, Place};
use super::*;
use crate::formats::decode::{Csv, OnBadRecord};
use crate::testing::SourceTest;

fn fields() -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("text", DataType::Utf8, true)]))
}

fn table(path: &Path, format: &str) -> TableSpec {
    TableSpec::new("input", fields())
        .with("connector", "filesystem")
        .with("path", path.to_str().unwrap())
        .with("format", format)
}

fn factory(table: &TableSpec) -> Arc<dyn SourceFactory> {
    Filesystem.source(table).unwrap()
}

fn refused(table: &TableSpec) -> ConnectorError {
    Filesystem.source(table).map(|_| ()).unwrap_err()
}

fn write(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn zip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lines(numbers: std::ops::Range<i64>, line: impl Fn(i64) -> String) -> String {
    numbers.fold(String::new(), |text, i| text + &line(i) + "\n")
}

type Row = (Option<i64>, Option<String>);

fn rows_of(rows: &RecordBatch) -> Vec<Row> {
    let (ids, texts) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_string::<i32>());
    ids.iter().zip(texts.iter()).map(|(id, text)| (id, text.map(str::to_string))).collect()
}

fn row(id: i64, text: &str) -> Row {
    (Some(id), Some(text.to_string()))
}

fn read(table: &TableSpec) -> Vec<Row> {
    let mut all = Vec::new();
    SourceTest::start(&*factory(table), 1).run(100, |_, rows| all.extend(rows_of(&rows)));
    all
}

/// The columns of every batch, one behind another.
fn read_all(table: &TableSpec) -> Vec<RecordBatch> {
    let mut all = Vec::new();
    SourceTest::start(&*factory(table), 1).run(100, |_, rows| all.push(rows));
    all
}

fn fails(table: &TableSpec) -> String {
    SourceTest::start(&*factory(table), 1).try_run(100, |_, _| {}).unwrap_err().to_string()
}

#[test]
fn csv_is_read_by_position_with_quotes_nulls_and_a_last_line_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.csv", "1,one\r\n2,\"t,w\no\"\n\n,\n4,four");
    assert_eq!(read(&table(&path, "csv")), [row(1, "one"), row(2, "t,w\no"), (None, None), row(4, "four")]);
}

#[test]
fn csv_with_a_header_is_read_by_name_in_each_file() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "a.csv", "\u{feff}text,other,ID\none,x,1\n");
    write(&folder, "b.csv", "id,text\n2,two\n");
    let table = table(folder.path(), "csv").with("csv.header", "true");
    assert_eq!(read(&table), [row(1, "one"), row(2, "two")]);
    let path = write(&folder, "c.csv", "id,txt\n2,two\n");
    let error = fails(&table);
    assert!(
        error.starts_with(&format!("{}:1: the header has no column 'text'; it has id, txt", path.display())),
        "{error}"
    );
}

#[test]
fn the_delimiter_and_the_null_literal_are_options() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.csv", "1\tNA\nNA\tx,y\n3\t\n");
    let table = table(&path, "csv").with("csv.field-delimiter", "\\t").with("csv.null-literal", "NA");
    assert_eq!(read(&table), [(Some(1), None), (None, Some("x,y".to_string())), row(3, "")]);
}

#[test]
fn a_line_of_empty_fields_or_of_spaces_is_a_row_and_an_empty_line_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "t.tsv", "1\tx\n\t\n2\t\n\ty\n");
    let tabs = table(&path, "csv").with("csv.field-delimiter", "\\t");
    let none = || (None, None);
    assert_eq!(read(&tabs), [row(1, "x"), none(), (Some(2), None), (None, Some("y".to_string()))]);
    let path = write(&folder, "w.csv", "x\n  \n\ny\r\n\r\n\"\"\n");
    let texts = Schema::new(vec![Field::new("text", DataType::Utf8, true)]);
    let rows = read_all(&TableSpec { schema: Arc::new(texts), ..table(&path, "csv") });
    let texts: Vec<_> = rows[0].column(0).as_string::<i32>().iter().map(Option::unwrap).collect();
    assert_eq!(texts, ["x", "  ", "y", ""]);
}

#[test]
fn json_lines_are_read_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path =
        write(&folder, "a.json", "{\"text\":\"one\",\"id\":1,\"more\":[1]}\n\n{\"id\":2}\n{\"id\":3,\"text\":4}");
    assert_eq!(read(&table(&path, "json")), [row(1, "one"), (Some(2), None), row(3, "4")]);
}

#[test]
fn times_are_read_in_sqls_form_and_in_isos() {
    let folder = tempfile::tempdir().unwrap();
    let schema = Schema::new(vec![Field::new("t", DataType::Timestamp(TimeUnit::Millisecond, None), true)]);
    let path = write(&folder, "a.csv", "1970-01-01 00:00:01\n1970-01-01T00:00:02.5Z\n");
    let table = TableSpec { schema: Arc::new(schema), ..table(&path, "csv") };
    let rows = read_all(&table);
    assert_eq!(rows[0].column(0).as_primitive::<TimestampMillisecondType>().values(), &[1000, 2500]);
}

#[test]
fn a_projection_reads_only_its_columns() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.csv", "x,one\ny,two\n");
    let table = TableSpec { projection: Some(vec![1]), ..table(&path, "csv") };
    SourceTest::start(&*factory(&table), 1).run(100, |_, rows| {
        assert_eq!(rows.schema(), table.projected_schema());
        assert_eq!(rows.column(0).as_string::<i32>().value(1), "two");
    });
    for (format, name) in [("csv", "a.csv"), ("json", "a.json")] {
        write(&folder, "a.json", "{\"id\":1}\n{\"id\":2}\n");
        let path = folder.path().join(name);
        let none = TableSpec {
            projection: Some(vec![]),
            ..TableSpec { options: self::table(&path, format).options, ..table.clone() }
        };
        let mut seen = 0;
        SourceTest::start(&*factory(&none), 1).run(100, |_, rows| seen += rows.num_rows());
        assert_eq!(seen, 2, "{format}");
    }
}

#[test]
fn a_corrupt_line_fails_with_file_and_line_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = lines(1..501, |i| format!("{i},\"a\nb\""));
    text.push_str("many,x\n");
    let path = write(&folder, "a.csv", &text);
    assert_eq!(
        fails(&table(&path, "csv")),
        format!(
            "{}:1001: 'many' is no BIGINT for column 'id'; correct the line, or set 'csv.ignore-parse-errors' = 'true' to skip and count such lines",
            path.display()
        )
    );
    let path = write(&folder, "b.csv", "1,a\n2,b,c\n");
    let error = fails(&table(&path, "csv"));
    assert!(error.contains("b.csv:2: the line has 3 fields, and 2 are expected"), "{error}");
    let path = write(&folder, "c.csv", "id,text\n1,a\n");
    assert!(fails(&table(&path, "csv")).ends_with("if this line has the columns' names, set 'csv.header' = 'true'"));
    let path = write(&folder, "g.csv", "1,a\n2,\"b\n3,c\n");
    let error = fails(&table(&path, "csv"));
    assert!(error.contains("g.csv:2: a quote is not closed; "), "{error}");
    let path = write(&folder, "d.json", "{\"id\":1}\n\n{\"id\":2,\n{\"id\":3}\n");
    let error = fails(&table(&path, "json"));
    assert!(error.contains("d.json:3: ") && error.contains("'json.ignore-parse-errors'"), "{error}");
    let path = write(&folder, "e.json", "{\"id\":1} {\"id\":2}\n");
    let error = fails(&table(&path, "json"));
    assert!(error.contains("e.json:1: "), "{error}");
    let path = write(&folder, "f.csv", b"1,a\n2,\xff\n");
    let error = fails(&table(&path, "csv"));
    assert!(error.contains("f.csv:2: a text is not UTF-8, from byte 3 of the line on"), "{error}");
}

#[test]
fn corrupt_lines_are_skipped_and_counted_where_an_option_says_so() {
    let folder = tempfile::tempdir().unwrap();
    // An unclosed quote swallows what follows it; only its own line is given up.
    let path = write(&folder, "a.csv", "1,a\nx,b\n3,c\n4,\"d\n5,e\n6,f,g\n7,h\n8,i");
    let table = table(&path, "csv").with("csv.ignore-parse-errors", "true");
    let mut test = SourceTest::start(&*factory(&table), 1);
    let mut all = Vec::new();
    test.run(100, |_, rows| all.extend(rows_of(&rows)));
    let ids: Vec<_> = all.iter().map(|(id, _)| id.unwrap()).collect();
    assert_eq!((ids, test.counters.skipped_rows.get()), (vec![1, 3, 5, 7, 8], 3));

    let path = write(&folder, "a.json", "{\"id\":1}\n{\"id\":\n{\"id\":3}\nnonsense\n");
    let table = self::table(&path, "json").with("json.ignore-parse-errors", "true");
    let mut test = SourceTest::start(&*factory(&table), 1);
    let mut ids = Vec::new();
    test.run(100, |_, rows| ids.extend(rows_of(&rows).into_iter().map(|(id, _)| id.unwrap())));
    assert_eq!((ids, test.counters.skipped_rows.get()), (vec![1, 3], 2));
}

#[test]
fn gzip_is_known_by_its_name_and_a_truncated_one_fails_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let text = lines(0..50_000, |i| format!("{i},row {}", i * 7919 % 10_007));
    let zipped = zip(text.as_bytes());
    let path = write(&folder, "a.csv.gz", &zipped);
    assert_eq!(read(&table(&path, "csv")).len(), 50_000);
    // Several gzip files one behind another are one.
    let both = [zipped.clone(), zipped.clone()].concat();
    assert_eq!(read(&table(&write(&folder, "b.csv.gz", both), "csv")).len(), 100_000);
    for cut in [zipped.len() - 1, zipped.len() / 2, 20, 3] {
        let path = write(&folder, "cut.csv.gz", &zipped[..cut]);
        let error = fails(&table(&path, "csv").with("csv.ignore-parse-errors", "true"));
        assert!(error.starts_with(&format!("{} is truncated", path.display())), "{cut}: {error}");
    }
    let error = fails(&table(&write(&folder, "plain.csv.gz", text), "csv"));
    assert!(error.contains("plain.csv.gz is not valid gzip"), "{error}");
}

#[test]
fn a_missing_input_is_named_before_the_job_starts() {
    let folder = tempfile::tempdir().unwrap();
    let table = TableSpec { base_dir: folder.path().to_path_buf(), ..table(Path::new("in/none.csv"), "csv") };
    let error = factory(&table).splits(2).unwrap_err();
    let path = folder.path().join("in/none.csv");
    assert_eq!(error.to_string(), format!("there is no input file or folder {}", path.display()));
}

#[test]
fn a_record_without_end_is_not_held_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.csv", vec![b'x'; 17 << 20]);
    let error = fails(&table(&path, "csv"));
    assert!(error.contains("a.csv:1: no end of the record within 16 MiB"), "{error}");
}

#[test]
fn what_is_declared_wrong_is_refused_with_what_to_write() {
    let path = Path::new("/in");
    let error = refused(&table(path, "parquet"));
    assert_eq!(error.to_string(), "table input: 'format' = 'parquet' is not 'csv', 'json' or 'raw'");
    let error = refused(&table(path, "csv").with("source.monitor-interval", "10s"));
    assert!(error.remedy().contains("take out 'source.monitor-interval'"));
    let error = refused(&table(path, "json").with("csv.header", "true"));
    assert!(error.to_string().contains("no meaning with 'format' = 'json'"), "{error}");
    let error = refused(&table(path, "csv").with("csv.field-delimiter", "||"));
    assert!(error.remedy().contains("one ASCII character"));
    let error = refused(&table(path, "csv").with("csv.header", "yes"));
    assert!(error.remedy().contains("'true' or 'false'"));
    let error = refused(&table(Path::new("hdfs://host/in"), "csv"));
    assert!(error.to_string().contains("'path' = 'hdfs://host/in' is not a path"), "{error}");
    let error =
        refused(&TableSpec { options: [("format".to_string(), "csv".to_string())].into(), ..table(path, "csv") });
    assert_eq!(error.to_string(), "table input: the option 'path' is missing");
    let nested = Schema::new(vec![Field::new("r", DataType::Struct(fields().fields().clone()), true)]);
    let error = refused(&TableSpec { schema: Arc::new(nested), ..table(path, "csv") });
    assert_eq!((error.column(), error.remedy().contains("'format' = 'json'")), (Some("r"), true));
}

#[test]
fn a_rate_limit_is_kept_and_shared() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.csv", "1,a\n".repeat(1000));
    let table = table(&path, "csv").with("scan.rate-limit", "2000");
    let start = std::time::Instant::now();
    assert_eq!(read(&table).len(), 1000);
    assert!(start.elapsed() > std::time::Duration::from_millis(400));
}

#[test]
fn a_file_that_shrank_since_the_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("a.csv", b"1,a\n".to_vec()), ("a.csv.gz", zip(b"1,a\n"))] {
        let path = write(&folder, name, bytes);
        let position = json!({"of": 1, "files": [path], "offset": 100, "line": 20});
        let factory = factory(&table(&path, "csv"));
        let error = SourceTest::restored(&*factory, 1, vec![position]).try_run(10, |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("before the position of the checkpoint"), "{error}");
    }
}

/// A folder of files of all kinds, and the rows in each.
fn mixed_folder(folder: &TempDir, format: &str, header: bool) -> usize {
    let line = |id: usize| match format {
        "csv" if id.is_multiple_of(7) => format!("{id},\"row\n{id}, ß\"\n"),
        "csv" if id.is_multiple_of(11) => format!("{id},\"\"\"row\"\" {id}\"\n\n"),
        "csv" if id.is_multiple_of(13) => format!("bad {id},x\n"),
        "csv" => format!("{id},row {id}\n"),
        _ if id.is_multiple_of(13) => format!("{{bad {id}\n"),
        _ => format!("{{\"id\":{id},\"text\":\"row {id}, ß\"}}\n"),
    };
    let mut id = 0;
    for (file, rows) in [40, 0, 1, 120, 60].into_iter().enumerate() {
        let mut text = String::new();
        if header {
            text.push_str("id,text\n");
        }
        for _ in 0..rows {
            text.push_str(&line(id));
            id += 1;
        }
        if file == 4 {
            text.pop();
        }
        let (name, bytes) = if file % 2 == 1 {
            (format!("{file}.{format}.gz"), zip(text.as_bytes()))
        } else {
            (format!("{file}.{format}"), text.into_bytes())
        };
        write(folder, &name, bytes);
    }
    id
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn splits_restored_at_any_position_give_every_row_once_and_in_order(
        csv in any::<bool>(),
        header in any::<bool>(),
        parallelism in 1_u32..5,
        stops in proptest::collection::vec((0_usize..12, 1_usize..40), 1..6),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let format = if csv { "csv" } else { "json" };
        let ids = mixed_folder(&folder, format, csv && header);
        let mut table = table(folder.path(), format).with(&format!("{format}.ignore-parse-errors"), "true");
        if csv {
            table = table.with("csv.header", if header { "true" } else { "false" });
        }
        let factory = factory(&table);
        let mut splits = factory.splits(parallelism).unwrap();
        let mut expected = vec![Vec::new(); splits.len()];
        SourceTest::restored(&*factory, 1, splits.clone())
            .run(1000, |split, rows| expected[split].extend(rows_of(&rows)));
        let all: usize = expected.iter().map(Vec::len).sum();
        prop_assert_eq!(all, (0..ids).filter(|id| !(id % 13 == 0 && (!csv || (id % 7 != 0 && id % 11 != 0)))).count());

        let mut found = vec![Vec::new(); splits.len()];
        for (polls, size) in stops {
            let mut test = SourceTest::restored(&*factory, 1, splits);
            for _ in 0..polls {
                if let SourcePoll::Rows { split, rows } = test.poll(size) {
                    prop_assert!(rows.num_rows() <= size);
                    found[split].extend(rows_of(&rows));
                }
            }
            splits = test.snapshot();
        }
        SourceTest::restored(&*factory, 1, splits).run(64, |split, rows| found[split].extend(rows_of(&rows)));
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn files_are_dealt_to_so_many_splits_that_each_subtask_has_as_many() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path(), "csv");
    for (files, parallelism, splits) in
        [(3, 1, 3), (3, 8, 3), (40, 1, 16), (40, 3, 18), (40, 16, 16), (40, 30, 30), (40, 64, 40)]
    {
        for file in 0..files {
            write(&folder, &format!("{file:02}.csv"), "1,a\n");
        }
        let factory = factory(&table);
        let found = factory.splits(parallelism).unwrap();
        assert_eq!(found.len(), splits, "{files} files for {parallelism}");
        let all: usize = found.iter().map(|split| split["files"].as_array().unwrap().len()).sum();
        assert_eq!(all, files);
        assert!(factory.bounded());
    }
}

/// A file that changes between two attempts, and what the second says.
fn changed(bytes: &[u8], change: impl Fn(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.csv", bytes);
    let factory = factory(&table(&path, "csv"));
    let mut test = SourceTest::start(&*factory, 1);
    assert!(matches!(test.poll(1), SourcePoll::Rows { .. }));
    let positions = test.snapshot();
    let mut rest = 0;
    SourceTest::restored(&*factory, 1, positions.clone()).run(10, |_, rows| rest += rows.num_rows());
    assert_eq!(rest, 1);
    change(&path);
    SourceTest::restored(&*factory, 1, positions).try_run(10, |_, _| {}).unwrap_err().to_string()
}

#[test]
fn a_file_that_is_another_one_in_the_next_attempt_is_refused() {
    let later = |path: &Path| {
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9)).unwrap();
    };
    let error = changed(b"1,a\n2,b\n", |path| fs::write(path, "1,a\n2,b\n3,c\n").unwrap());
    assert!(error.contains("has changed since the job first saw it: it had 8 bytes and has 12"), "{error}");
    let error = changed(b"1,a\n2,b\n", |path| fs::write(path, "1,a\n").unwrap());
    assert!(error.contains("it had 8 bytes and has 4"), "{error}");
    let error = changed(b"1,a\n2,b\n", |path| {
        fs::remove_file(path).unwrap();
        fs::write(path, "5,e\n6,f\n").unwrap();
        later(path);
    });
    assert!(error.contains("it was written again"), "{error}");
}

#[test]
fn a_file_that_is_written_while_it_is_read_is_refused_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.csv", "1,a\n2,b\n");
    let mut test = SourceTest::start(&*factory(&table(&path, "csv")), 1);
    assert!(matches!(test.poll(1), SourcePoll::Rows { .. }));
    fs::File::options().append(true).open(&path).unwrap().write_all(b"3,c\n").unwrap();
    let error = test.try_run(10, |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("it had 8 bytes and has 12"), "{error}");
}

#[test]
fn splits_of_the_first_version_are_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (write(&folder, "a.csv", "1,a\n2,b\n"), write(&folder, "b.csv", "3,c\n"));
    let factory = factory(&table(folder.path(), "csv"));
    let stored = json!({"of": 1, "files": [a, b], "offset": 4, "line": 2});
    let mut test = SourceTest::restored(&*factory, 1, vec![stored]);
    let mut all = Vec::new();
    test.run(10, |_, rows| all.extend(rows_of(&rows)));
    assert_eq!(all, [row(2, "b"), row(3, "c")]);
    let later = json!({"version": 3, "of": 1, "files": [], "offset": 0, "line": 1});
    let error = SourceTest::try_restored(&*factory, 1, vec![later]).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("a later one's"), "{error}");
}

#[test]
fn paths_of_the_process_of_the_machine_and_of_the_worker_are_closed() {
    let own = tempfile::tempdir().unwrap();
    for path in ["/proc/self/environ", "/etc/weir/tls/tls.key", "/data/../sys/kernel", own.path().to_str().unwrap()] {
        let table = TableSpec { closed: vec![own.path().to_path_buf()], ..table(Path::new(path), "csv") };
        assert!(refused(&table).to_string().contains("which no table reaches"), "{path}");
        assert!(Filesystem.sink(&table).is_err(), "{path}");
    }
    // What a link leads to is known when it is followed.
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/proc/self/environ", folder.path().join("a.csv")).unwrap();
    let error = fails(&table(folder.path(), "csv"));
    assert!(error.contains("a.csv is in /proc, which no table reaches"), "{error}");
}

#[test]
fn a_sink_within_a_source_of_the_job_is_refused() {
    let (read, written) = (table(Path::new("/data"), "csv"), table(Path::new("/data/out"), "json"));
    let error = Filesystem.apart(&read, &written).unwrap_err();
    assert!(error.to_string().contains("below the 'path' of input"), "{error}");
    assert_eq!(error.option(), Some("path"));
    assert!(Filesystem.apart(&written, &read).is_ok());
}

#[test]
fn of_a_record_that_is_too_long_only_the_first_line_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let count = |name: &str, text: &[u8], format: &str| {
        let path = write(&folder, name, text);
        let table = table(&path, format).with(&format!("{format}.ignore-parse-errors"), "true");
        let mut test = SourceTest::start(&*factory(&table), 1);
        let mut ids = Vec::new();
        test.run(10_000, |_, rows| ids.extend(rows_of(&rows).into_iter().map(|(id, _)| id.unwrap())));
        let end: Vec<_> = test.snapshot();
        assert!(end[0]["files"].as_array().unwrap().is_empty());
        (ids, test.counters.skipped_rows.get())
    };
    let long =
        [b"{\"id\":1}\n{\"id\":2,\"text\":\"".to_vec(), vec![b'x'; 17 << 20], b"\"}\n{\"id\":3}\n".to_vec()].concat();
    assert_eq!(count("a.json", &long, "json"), (vec![1, 3], 1));
    let unended = &long[..long.len() - 12];
    assert_eq!(count("b.json", unended, "json"), (vec![1], 1));
    let good = "3,text\n".repeat((17 << 20) / 7);
    let (ids, skipped) = count("c.csv", format!("1,a\n2,\"open\n{good}").as_bytes(), "csv");
    assert_eq!((ids.len(), ids[0], skipped), (1 + good.len() / 7, 1, 1));
}

#[test]
fn the_split_furthest_back_in_event_time_is_read_first() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.csv", "b.csv", "c.csv"] {
        write(&folder, name, "1,a\n2,b\n3,c\n");
    }
    let factory = factory(&table(folder.path(), "csv"));
    let mut test = SourceTest::start(&*factory, 1);
    let mut read = Vec::new();
    // Each row of the first file is an hour further, those of the others a minute.
    let step = [60, 1, 1];
    let mut reached = [0; 3];
    loop {
        match test.poll(1) {
            SourcePoll::Rows { split, .. } => {
                read.push(split);
                reached[split] += step[split];
                test.event_time(split, reached[split]);
            }
            SourcePoll::Pending { .. } | SourcePoll::SplitFinished(_) | SourcePoll::SplitsAdded(_) => {}
            SourcePoll::End => break,
        }
    }
    assert_eq!(read, [0, 1, 2, 1, 2, 1, 2, 0, 0]);
}

/// Rows of the flights example whose hour has closed before they come, where so many subtasks share the files.
fn late_flights(parallelism: usize) -> usize {
    const DELAY: i64 = 24 * 3_600_000;
    const HOUR: i64 = 3_600_000;
    let time = Field::new("time_hour", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/flights/data");
    let table = table(Path::new(path), "csv").with("csv.header", "true").with("csv.null-literal", "NA");
    let factory = factory(&TableSpec { schema: Arc::new(Schema::new(vec![time])), ..table });
    let splits = factory.splits(parallelism as u32).unwrap();
    let mut all = Watermarks::new(splits.len(), i64::MIN);
    let mut subtasks: Vec<(SourceTest, Vec<usize>)> = (0..parallelism)
        .map(|subtask| {
            let dealt: Vec<usize> = (subtask..splits.len()).step_by(parallelism).collect();
            let own = dealt.iter().map(|&split| splits[split].clone()).collect();
            (SourceTest::restored(&*factory, parallelism as u32, own), dealt)
        })
        .collect();
    let (mut rows, mut late) = (0, 0);
    while !all.is_ended() {
        for (test, dealt) in &mut subtasks {
            match test.poll(1024) {
                SourcePoll::Rows { split, rows: batch } => {
                    let times = batch.column(0).as_primitive::<TimestampMillisecondType>().values().to_vec();
                    rows += times.len();
                    late +=
                        times.iter().filter(|&&time| time - time.rem_euclid(HOUR) + HOUR - 1 <= all.current()).count();
                    all.advance(dealt[split], times.iter().max().unwrap() - DELAY);
                    test.event_time(split, all.of(dealt[split]));
                }
                SourcePoll::SplitFinished(split) => drop(all.end(dealt[split])),
                SourcePoll::Pending { .. } | SourcePoll::End | SourcePoll::SplitsAdded(_) => {}
            }
        }
    }
    assert_eq!(rows, 27_004);
    late
}

#[test]
fn how_many_subtasks_share_the_files_makes_no_row_late() {
    assert_eq!([1, 2, 3, 4].map(late_flights), [0; 4]);
}

/// What `gzip` makes of it: its content, if it says without a warning that all is well.
fn by_gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let gzip =
        std::process::Command::new("gzip").arg("-dc").stdin(fs::File::open(file.path()).unwrap()).output().unwrap();
    gzip.status.success().then_some(gzip.stdout)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_zipped_file_is_read_where_gzip_finds_it_whole_and_nowhere_else(
        sizes in proptest::collection::vec(0_i64..400, 1..4),
        padding in 0_usize..3,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut next = 0;
        let mut bytes = Vec::new();
        for rows in sizes {
            bytes.extend(zip(lines(next..next + rows, |i| format!("{i},row {}", i * 7919 % 10_007)).as_bytes()));
            next += rows;
        }
        bytes.resize(bytes.len() + padding, 0);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder, "a.csv.gz", &bytes);
        let expected = by_gzip(&bytes).map(|text| String::from_utf8(text).unwrap().lines().count());
        // Another format that gzip reads, and we do not.
        prop_assume!(!bytes.windows(2).any(|magic| matches!(magic, [0x1F, 0x9D | 0x9E | 0x1E | 0xA0])));
        let table = table(&path, "csv");
        let mut rows = 0;
        let read = SourceTest::start(&*factory(&table), 1).try_run(100, |_, batch| rows += batch.num_rows());
        prop_assert_eq!(read.map(|()| rows).ok(), expected);

        let (factory, _) = objects(&[("in/a.csv.gz", bytes.clone())]);
        let mut rows = 0;
        let read = factory.splits(1).and_then(|splits| {
            SourceTest::restored(&factory, 1, splits).try_run(100, |_, batch| rows += batch.num_rows())
        });
        if !bytes.is_empty() {
            prop_assert_eq!(read.map(|()| rows).ok(), expected);
        }
    }
}

#[test]
fn a_fault_behind_a_member_is_told_however_often_it_is_asked_for() {
    let mut bytes = zip(b"1,a\n");
    let trailer = bytes.len() - 8;
    bytes[trailer] ^= 1;
    bytes.extend(zip(b"2,b\n"));
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.csv.gz", &bytes);
    let mut test = SourceTest::start(&*factory(&table(&path, "csv")), 1);
    let error = test.try_run(100, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("a.csv.gz is not valid gzip"), "{error}");
    assert!(test.try_run(100, |_, _| {}).is_err(), "and it does not end after that");
}

/// Passes requests on, and panics at the first that comes behind so many bytes.
#[derive(Debug)]
struct Panicking {
    inner: Arc<InMemory>,
    behind: u64,
}

impl std::fmt::Display for Panicking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Panicking")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Panicking {
    async fn put_opts(
        &self,
        to: &ObjectPath,
        bytes: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(to, bytes, options).await
    }

    async fn put_multipart_opts(
        &self,
        to: &ObjectPath,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &ObjectPath, options: GetOptions) -> object_store::Result<GetResult> {
        if let Some(GetRange::Bounded(range)) = &options.range {
            assert!(range.start < self.behind, "a connector's mistake");
        }
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(
        &self,
        all: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.inner.delete_stream(all)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[test]
fn a_panic_where_an_object_is_fetched_is_a_failure_and_not_its_end() {
    let text = lines(0..1_000_000, |i| format!("{i},row {i}")).into_bytes();
    assert!(text.len() > 9 << 20);
    for behind in [1, 5 << 20] {
        let (mut factory, store) = objects(&[("in/a.csv", text.clone())]);
        let splits = factory.splits(1).unwrap();
        if let Location::Remote(bucket) = &mut factory.location {
            bucket.objects.store = Arc::new(Panicking { inner: Arc::clone(&store), behind });
        }
        // The first range is asked for from the start, so the first panics later than that.
        let error = SourceTest::restored(&factory, 1, splits).try_run(1000, |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("ended without a word"), "{error}");
    }
}

/// What Hive, Spark and people put into names.
const STRANGE: [&str; 6] =
    ["ts=2024-01-01 00%3A00%3A00/a.csv", "a~b#c.csv", "[d]{e}^|.csv", "100%.csv", "ü ? *.csv", "<f>`g`.csv"];

#[test]
fn objects_are_read_whatever_their_names_are() {
    let check = |objects: Objects, place: Place| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for (id, name) in STRANGE.iter().enumerate() {
            let key = ObjectPath::parse(format!("in/{name}")).unwrap();
            runtime.block_on(objects.store.put(&key, format!("{id},x\n").into())).unwrap();
        }
        let (mut factory, _) = self::objects(&[]);
        factory.location = Location::Remote(Bucket { place, objects, path: "in".into() });
        let mut ids = Vec::new();
        SourceTest::restored(&factory, 1, factory.splits(1).unwrap()).run(10, |_, rows| {
            ids.extend_from_slice(rows.column(0).as_primitive::<Int64Type>().values());
        });
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
    };
    let place = |endpoint: Option<String>| {
        let region = endpoint.as_ref().map(|_| "us-east-1".to_string());
        Place { bucket: "data".to_string(), endpoint, region }
    };
    check(Objects::new(InMemory::new()), place(None));
    if let Some(server) = weir_storage::minio::Minio::start("objects_are_read_whatever_their_names_are", &["data"]) {
        check(Objects::new((*server.client("data")).clone()), place(Some(server.endpoint())));
    }
}

/// These objects below `in/`, as lines of CSV.
fn objects(objects: &[(&str, Vec<u8>)]) -> (FileSourceFactory, Arc<InMemory>) {
    let store = Arc::new(InMemory::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (key, bytes) in objects {
        runtime.block_on(store.put(&(*key).into(), bytes.clone().into())).unwrap();
    }
    let factory = FileSourceFactory {
        location: Location::Remote(Bucket {
            place: Place { bucket: "bucket".to_string(), endpoint: None, region: None },
            objects: Objects { store: Arc::clone(&store) as _, uploads: Arc::clone(&store) as _ },
            path: "in".into(),
        }),
        closed: Closed::default(),
        format: Format::Csv(Csv { delimiter: b',', header: false, null_literal: None }),
        schema: fields(),
        needed: vec![0, 1],
        on_bad: OnBadRecord::Fail,
        rate_limit: None,
    };
    (factory, store)
}

/// One split with all of these objects.
fn one_split(factory: &FileSourceFactory) -> Vec<serde_json::Value> {
    let files: Vec<_> = factory.splits(1).unwrap().iter().map(|split| split["files"][0].clone()).collect();
    vec![json!({"version": 2, "of": 1, "files": files, "offset": 0, "line": 1})]
}

#[test]
fn a_checkpoint_at_the_end_of_an_object_is_restored_and_one_of_another_object_is_refused() {
    let text = lines(0..1_000, |i| format!("{i},row {i}"));
    let (factory, store) = objects(&[("in/a.csv", text.clone().into_bytes()), ("in/b.csv", b"1000,last\n".to_vec())]);
    let mut test = SourceTest::restored(&factory, 1, one_split(&factory));
    let mut seen = 0;
    while seen < 1_000 {
        match test.poll(100) {
            SourcePoll::Rows { rows, .. } => seen += rows.num_rows(),
            SourcePoll::Pending { .. } => std::thread::yield_now(),
            other => panic!("{other:?}"),
        }
    }
    let positions = test.snapshot();
    assert_eq!((&positions[0]["offset"], positions[0]["files"].as_array().unwrap().len()), (&json!(text.len()), 2));
    let mut rest = Vec::new();
    SourceTest::restored(&factory, 1, positions.clone()).run(100, |_, rows| {
        rest.extend_from_slice(rows.column(0).as_primitive::<Int64Type>().values());
    });
    assert_eq!(rest, [1_000]);

    let shorter = text.as_bytes()[..text.len() - 7].to_vec();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = |bytes: Vec<u8>, positions: &[serde_json::Value]| {
        runtime.block_on(store.put(&"in/a.csv".into(), bytes.into())).unwrap();
        let mut test = SourceTest::restored(&factory, 1, positions.to_vec());
        test.try_run(100, |_, _| {}).unwrap_err().to_string()
    };
    // The first version of a split knows no more than a name.
    let first = json!({"of": 1, "files": ["s3://bucket/in/a.csv"], "offset": text.len(), "line": 1001});
    let error = refused(shorter.clone(), &[first]);
    assert!(error.contains("ends 7 bytes before the position of the checkpoint"), "{error}");
    let error = refused(shorter, &positions);
    assert!(error.contains("has changed since the job first saw it"), "{error}");
    let error = refused(text.replace("row", "ROW").into_bytes(), &positions);
    assert!(error.contains("has changed since the job first saw it: its ETag is another one"), "{error}");
    let begun = json!({"version": 2, "of": 1, "files": positions[0]["files"], "offset": 6, "line": 2});
    let error = refused(text.replace("row", "Row").into_bytes(), &[begun]);
    assert!(error.contains("its ETag is another one"), "{error}");
}

#[test]
fn objects_are_read_ahead_and_restored_like_files() {
    let text = lines(0..100_000, |i| format!("{i},row {i}"));
    let (factory, _) = objects(&[("in/a.csv", text.clone().into_bytes()), ("in/b.csv.gz", zip(text.as_bytes()))]);
    let splits = one_split(&factory);
    let names: Vec<_> = splits[0]["files"].as_array().unwrap().iter().map(|file| &file["name"]).collect();
    assert_eq!(names, ["s3://bucket/in/a.csv", "s3://bucket/in/b.csv.gz"]);
    let mut ids = Vec::new();
    let mut take = |rows: &RecordBatch| ids.extend_from_slice(rows.column(0).as_primitive::<Int64Type>().values());
    let mut positions = splits;
    for stop in [30_000, 130_000] {
        let mut test = SourceTest::restored(&factory, 1, positions);
        let mut seen = 0;
        while seen < stop {
            match test.poll(1000) {
                SourcePoll::Rows { rows, .. } => {
                    seen += rows.num_rows();
                    take(&rows);
                }
                SourcePoll::Pending { .. } => std::thread::yield_now(),
                other => panic!("{other:?}"),
            }
        }
        positions = test.snapshot();
    }
    SourceTest::restored(&factory, 1, positions).run(1000, |_, rows| take(&rows));
    assert!(ids.iter().copied().eq((0..100_000).chain(0..100_000)));
}
