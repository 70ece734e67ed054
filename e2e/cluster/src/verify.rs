//! The self-verifying job's answer: each key's changes are a chain from nothing to the whole, without a gap or a repeat.

use std::collections::BTreeMap;

/// How many keys the rows are dealt to.
pub const KEYS: u64 = 100;

/// Each key's last count, if the lines are a changelog in which every key goes from count to count, reaching and leaving each
/// count once, with the same sum; else what is wrong.
pub fn counts(lines: &[String]) -> Result<BTreeMap<u64, (u64, u64)>, String> {
    let mut reached: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
    let mut left: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
    for line in lines {
        let row: serde_json::Value =
            serde_json::from_str(line).map_err(|error| format!("{line:?} is no JSON: {error}"))?;
        let number = |name: &str| row[name].as_u64().ok_or_else(|| format!("{name} is missing in {line}"));
        let (key, count, sum) = (number("k")?, number("c")?, number("s")?);
        let (side, verb) = match row["op"].as_str() {
            Some("+I" | "+U") => (&mut reached, "reached"),
            Some("-U") => (&mut left, "left"),
            other => return Err(format!("op {other:?} in {line}")),
        };
        if side.entry(key).or_default().insert(count, sum).is_some() {
            return Err(format!("key {key} {verb} {count} twice: counted twice"));
        }
    }
    let mut last = BTreeMap::new();
    for (key, reached) in &reached {
        let left = left.remove(key).unwrap_or_default();
        let (&count, &sum) = reached.last_key_value().ok_or("a key without a change")?;
        last.insert(*key, (count, sum));
        if left.len() + 1 != reached.len() {
            return Err(format!(
                "key {key} reached {} counts and left {}: something between is lost",
                reached.len(),
                left.len()
            ));
        }
        for (count, sum) in left {
            if reached.get(&count) != Some(&sum) {
                return Err(format!("key {key} left {count} with the sum {sum}, which it had never reached"));
            }
        }
    }
    match left.first_key_value() {
        Some((key, _)) => Err(format!("key {key} left a count and reached none")),
        None => Ok(last),
    }
}

/// Whether the answer to all rows `0..rows` is there, and nothing else.
pub fn whole(lines: &[String], rows: u64) -> Result<(), String> {
    let last = counts(lines)?;
    for key in 0..KEYS {
        let of_key = (key..rows).step_by(KEYS as usize);
        let wanted = (of_key.clone().count() as u64, of_key.sum::<u64>());
        match last.get(&key) {
            Some(found) if *found == wanted => {}
            Some(found) => return Err(format!("key {key} has count and sum {found:?} in place of {wanted:?}")),
            None if wanted.0 == 0 => {}
            None => return Err(format!("key {key} is missing")),
        }
    }
    if last.len() as u64 > KEYS { Err(format!("there are {} keys", last.len())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(changes: &[(&str, u64, u64, u64)]) -> Vec<String> {
        changes.iter().map(|(op, k, c, s)| format!(r#"{{"op":"{op}","k":{k},"c":{c},"s":{s}}}"#)).collect()
    }

    #[test]
    fn a_chain_in_any_order_is_counted() {
        let lines = rows(&[("-U", 1, 2, 102), ("+I", 1, 2, 102), ("+U", 1, 3, 303), ("+I", 2, 1, 2)]);
        assert_eq!(counts(&lines), Ok([(1, (3, 303)), (2, (1, 2))].into()));
    }

    #[test]
    fn a_repeat_a_gap_and_a_change_from_nowhere_are_found() {
        for (lines, complaint) in [
            (rows(&[("+I", 1, 1, 1), ("+I", 1, 1, 1)]), "twice"),
            (rows(&[("+I", 1, 1, 1), ("+U", 1, 3, 3)]), "lost"),
            (rows(&[("+I", 1, 1, 1), ("-U", 1, 2, 2), ("+U", 1, 3, 3)]), "never reached"),
            (rows(&[("-U", 1, 1, 1)]), "reached none"),
        ] {
            let error = counts(&lines).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn the_whole_answer_is_told_from_a_part_of_it() {
        let all: Vec<_> = (0..KEYS).map(|key| ("+I", key, 2, 2 * key + KEYS)).collect();
        assert_eq!(whole(&rows(&all), 2 * KEYS), Ok(()));
        assert!(whole(&rows(&all[1..]), 2 * KEYS).unwrap_err().contains("missing"));
        assert!(whole(&rows(&all), 3 * KEYS).unwrap_err().contains("in place of"));
    }
}
