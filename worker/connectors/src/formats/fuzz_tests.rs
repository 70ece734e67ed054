//! Files with bytes changed. Whatever stands in a file, its rows are the same in any pieces, from an object that is zipped too, and
//! from the middle on; where a record is bad, one reading says which, and the other skips it and counts.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use weir_fuzz::{Random, cases};

use super::flink_tests::{Case, all_cases};
use crate::Filesystem;
use crate::spec::ConnectorFactory as _;
use crate::testing::SourceTest;

/// What CSV and JSON are made of.
const WORDS: [&str; 26] = [
    ",",
    ";",
    "\"",
    "\"\"",
    "\n",
    "\r\n",
    "\r",
    "\\",
    "\\\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    "null",
    "true",
    "1e999",
    "-0.0",
    "\\u0000",
    "\\ud83d",
    "\u{1F600}",
    "\u{feff}",
    "9223372036854775808",
    "2020-02-30",
    "{\"v\":",
    "\"e\":7}",
];

/// Rows, and how many records were skipped; or why there are none.
type Outcome = Result<(RecordBatch, u64), String>;

/// Reads the table of `case` from a file. `option` says what becomes of bad records, `at_once` how many rows a batch may have.
fn read(case: &Case, path: &Path, skip: bool, at_once: usize) -> Outcome {
    let option = format!("{}.ignore-parse-errors", case.format);
    let table = case.table(path, &case.format).with(&option, if skip { "true" } else { "false" });
    let source = Filesystem.source(&table).map_err(|error| error.to_string())?;
    let mut test = SourceTest::start(&*source, 1);
    let mut batches = Vec::new();
    test.try_run(at_once, |_, rows| batches.push(rows)).map_err(|error| error.to_string())?;
    Ok((concat_batches(&case.schema(), &batches).unwrap(), test.counters.skipped_rows.get()))
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The texts of a case's neighbours, with changes: those have the same columns and options.
fn made_up(random: &mut Random, alike: &[&Case]) -> Vec<u8> {
    let texts = (0..=random.below(5)).map(|_| alike[random.below(alike.len())].text.as_str());
    let text = texts.collect::<Vec<_>>().join("");
    random.changed(text.as_bytes(), &WORDS)
}

#[test]
fn whatever_stands_in_a_file_its_rows_do_not_hang_on_how_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let known = all_cases();
    let mut groups: BTreeMap<_, Vec<&Case>> = BTreeMap::new();
    for case in known.iter().filter(|case| case.what == "read") {
        groups.entry((&case.format, &case.columns, &case.options)).or_default().push(case);
    }
    let groups: Vec<_> = groups.into_values().collect();
    let (plain, gz) = (folder.path().join("in"), folder.path().join("in.gz"));
    cases(400, |random| {
        let alike = &groups[random.below(groups.len())];
        let bytes = made_up(random, alike);
        std::fs::write(&plain, &bytes).unwrap();
        std::fs::write(&gz, zipped(&bytes)).unwrap();
        let case = alike[0];
        let strict = read(case, &plain, false, 1_000);
        let lenient = read(case, &plain, true, 1_000);
        assert_eq!(lenient, read(case, &plain, true, 1), "one at a time: {}", shown(&bytes));
        assert_eq!(lenient.as_ref().ok(), read(case, &gz, true, 1_000).as_ref().ok(), "zipped: {}", shown(&bytes));
        if let Ok((rows, skipped)) = &lenient {
            match &strict {
                Ok((all, _)) => assert_eq!((all, *skipped), (rows, 0), "nothing was bad: {}", shown(&bytes)),
                Err(_) => assert!(*skipped > 0, "nothing was skipped: {}", shown(&bytes)),
            }
        } else {
            assert!(strict.is_err(), "{lenient:?}: {}", shown(&bytes));
        }
    });
}

#[test]
fn whatever_stands_in_a_zipped_file_it_is_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let known = all_cases();
    let case = known.iter().find(|case| case.what == "read" && case.format == "csv").unwrap();
    let path = folder.path().join("in.gz");
    let whole = [zipped(case.text.repeat(50).as_bytes()), zipped(case.text.as_bytes())].concat();
    cases(1_000, |random| {
        let bytes = random.changed(&whole, &["\u{1f}\u{8b}", "\0\0\0\0"]);
        std::fs::write(&path, &bytes).unwrap();
        let judged = MultiGzDecoder::new(&bytes[..]).read_to_end(&mut Vec::new());
        let outcome = read(case, &path, true, 1_000);
        // Zeros behind the last member are padding here, and a fault to this judge.
        if judged.is_ok() {
            outcome.unwrap();
        } else if let Ok((rows, _)) = outcome {
            assert!(bytes.ends_with(&[0]), "{judged:?}, and {} rows are read", rows.num_rows());
        }
    });
}

fn shown(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(2_000)]))
}
