//! Which stored state belongs to which operator of the plan, and whether it may be read as what the plan wants. Pure, and before
//! anything is touched.
//!
//! State is found by identity. Where several have the same one (two INSERTs that differ by their WHERE), the plan that wrote the
//! checkpoint is recognised by its fingerprint or its script, and then their order tells them apart: a crash is always recovered
//! from. In another plan their statements and filters do, and what these leave open is refused: to guess would be to exchange state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_protocol::{
    part::{Keeper, Part, Role, SubtaskPart, Table, in_words},
    record::Record,
    settings::Permissions,
};
use weir_state::TableShape;

use crate::api::{
    failure::Failure,
    graph::{JobGraph, Kin, Stage, StageHead},
};

/// A source, a stateful operator or a sink of the plan.
struct Planned<'g> {
    role: Role,
    stage: &'g str,
    identity: &'g str,
    name: &'g str,
    kin: &'g Kin,
    rows_under: &'g str,
    tables: Vec<TableShape>,
}

/// All subtasks that a record's parts know.
pub(crate) fn subtasks(parts: &[Part]) -> impl Iterator<Item = &SubtaskPart> {
    parts.iter().flat_map(|part| &part.subtasks)
}

/// What a plan keeps, in its order.
fn planned(graph: &JobGraph) -> Vec<Planned<'_>> {
    graph.stages.iter().flat_map(of_stage).collect()
}

fn of_stage(stage: &Stage) -> impl Iterator<Item = Planned<'_>> {
    let source = match &stage.head {
        StageHead::Source(node) => Some(Planned::plain(stage, Role::Source, &node.identity, &node.name, &node.kin)),
        StageHead::Inputs(_) => None,
    };
    let stateful = stage.operators.iter().filter(|node| node.state.is_some());
    let operators = stateful.map(move |node| Planned {
        rows_under: node.rows_under(),
        tables: node.factory.tables(),
        ..Planned::plain(stage, Role::Operator, &node.identity, &node.name, &node.kin)
    });
    let sink = stage.sink.as_ref();
    let sink = sink.map(|node| Planned::plain(stage, Role::Sink, &node.identity, &node.name, &node.kin));
    source.into_iter().chain(operators).chain(sink)
}

impl<'g> Planned<'g> {
    fn plain(stage: &'g Stage, role: Role, identity: &'g str, name: &'g str, kin: &'g Kin) -> Self {
        Self { role, stage: &stage.identity, identity, name, kin, rows_under: identity, tables: Vec::new() }
    }

    fn family(&self) -> &str {
        if self.kin.family.is_empty() { self.identity } else { &self.kin.family }
    }

    fn in_words(&self) -> String {
        in_words(self.name, self.kin.line)
    }

    fn describe(&self) -> Keeper {
        Keeper {
            operator: self.identity.to_string(),
            role: self.role,
            stage: self.stage.to_string(),
            name: self.name.to_string(),
            line: self.kin.line,
            family: self.family().to_string(),
            ordinal: self.kin.ordinal,
            statement: self.kin.statement.clone(),
            discriminator: self.kin.discriminator.clone(),
            rows_under: self.rows_under.to_string(),
            tables: self.tables.iter().map(|table| table.describe(self.rows_under)).collect(),
        }
    }
}

/// What a part says of the plan's keepers.
pub fn describe(graph: &JobGraph) -> Vec<Keeper> {
    planned(graph).iter().map(Planned::describe).collect()
}

/// The identities of this plan's keepers and stages as the build before would have written them.
pub fn called_before(graph: &JobGraph) -> BTreeMap<String, String> {
    let keepers = planned(graph).into_iter().map(|planned| {
        let alias = planned.kin.aliases.last().map_or(planned.identity, String::as_str);
        // Rows are found by the operator's identity there, and by nothing else.
        let called = if planned.role == Role::Operator { planned.rows_under } else { alias };
        (planned.identity.to_string(), called.to_string())
    });
    let stage = |stage: &Stage| {
        let called = stage.aliases.last().unwrap_or(&stage.identity);
        (stage.identity.clone(), called.clone())
    };
    let stages = graph.stages.iter().map(stage);
    keepers.collect::<Vec<_>>().into_iter().chain(stages).collect()
}

/// Whether version 1 can say what these rows stand under. It finds them by the operator's identity, which in it is also its place
/// among those that mean the same.
pub fn fits_version_1(graph: &JobGraph) -> bool {
    let own = |planned: &Planned<'_>| {
        let aliases = planned.kin.aliases.iter().map(String::as_str);
        planned.role != Role::Operator || aliases.chain([planned.identity]).any(|name| name == planned.rows_under)
    };
    planned(graph).iter().all(own)
}

/// Whether all operators of a stage have its event time, as builds of version 2 take it. A barrier amid a firing makes less of a
/// difference than that of an operator that holds event time back.
pub fn fits_version_2(graph: &JobGraph) -> bool {
    graph.stages.iter().flat_map(|stage| &stage.operators).all(|node| !node.factory.holds_back())
}

/// A keeper as a record's parts have it.
struct Stored<'p> {
    operator: &'p str,
    stage: &'p str,
    /// What version 2 says of it.
    said: Option<&'p Keeper>,
    family: &'p str,
    ordinal: u32,
}

/// Digits of the hash in an identity. No plan has so many operators that a number is as long.
const HASH_DIGITS: usize = 16;

/// The identity without the number by which it was told from others, and that number less one.
fn told_apart(identity: &str) -> (&str, u32) {
    let Some((family, number)) = identity.rsplit_once('-') else { return (identity, 0) };
    match number.parse::<u32>() {
        Ok(place) if place >= 2 && number.len() < HASH_DIGITS && family.contains('-') => (family, place - 1),
        _ => (identity, 0),
    }
}

impl<'p> Stored<'p> {
    fn of(operator: &'p str, stage: &'p str, said: Option<&'p Keeper>) -> Self {
        let (family, ordinal) = match said {
            Some(keeper) => (keeper.family.as_str(), keeper.ordinal),
            None => told_apart(operator),
        };
        Self { operator, stage, said, family, ordinal }
    }

    fn in_words(&self) -> String {
        self.said.map_or_else(|| format!("`{}`", self.operator), Keeper::in_words)
    }

    fn name(&self) -> &'p str {
        self.said.map_or(self.operator, |keeper| keeper.name.as_str())
    }

    fn is_sink(&self) -> bool {
        self.said.map_or_else(|| self.operator.starts_with("sink"), |keeper| keeper.role == Role::Sink)
    }

    /// What tells it from others of its family in another plan.
    fn told(&self) -> Option<(&str, &str)> {
        self.said.map(|keeper| (keeper.statement.as_str(), keeper.discriminator.as_str()))
    }

    fn rows_under(&self) -> &'p str {
        self.said.map_or(self.operator, |keeper| keeper.rows_under.as_str())
    }
}

/// All keepers of a record, in the order of the script where that is known.
fn stored(parts: &[Part]) -> Vec<Stored<'_>> {
    let mut said: Vec<&Keeper> = Vec::new();
    for keeper in parts.iter().flat_map(|part| &part.keepers) {
        if !said.iter().any(|known| known.operator == keeper.operator) {
            said.push(keeper);
        }
    }
    let mut seen = BTreeSet::new();
    let described = said.into_iter().map(|keeper| Stored::of(&keeper.operator, &keeper.stage, Some(keeper)));
    let undescribed = subtasks(parts).flat_map(|subtask| {
        subtask.operators.iter().map(move |operator| Stored::of(&operator.operator, &subtask.stage, None))
    });
    described.chain(undescribed).filter(|stored| seen.insert(stored.operator)).collect()
}

/// Where the state of the plan's keepers is in a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// By the plan's identities.
    found: BTreeMap<String, Found>,
    /// Stored sinks that the plan has no more.
    dropped_sinks: BTreeSet<String>,
}

/// A keeper in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its identity there.
    pub operator: String,
    /// The identity of its stage there.
    pub stage: String,
    rows_under: String,
}

impl Matched {
    /// Where the state of this source, operator or sink is; nothing if it starts anew.
    pub fn of(&self, identity: &str) -> Option<&Found> {
        self.found.get(identity)
    }

    /// The identity in the plan that a stored one has become. The commits of a sink that is in the plan no more keep theirs:
    /// whoever understands them carries them out.
    pub fn planned_of<'a>(&'a self, operator: &'a str) -> Option<&'a str> {
        let found =
            self.found.iter().find(|(_, found)| found.operator == operator).map(|(planned, _)| planned.as_str());
        found.or_else(|| self.dropped_sinks.get(operator).map(String::as_str))
    }

    /// The stored stage whose key groups, watermarks and end this stage goes on with: that of its keyed state, else that of what
    /// stands at its head.
    pub fn stage_of(&self, stage: &Stage) -> Option<&str> {
        let keyed = stage.operators.iter().filter(|node| node.state.is_some()).map(|node| node.identity.as_str());
        let source = match &stage.head {
            StageHead::Source(node) => Some(node.identity.as_str()),
            StageHead::Inputs(_) => None,
        };
        let sink = stage.sink.as_ref().filter(|_| !stage.stateful).map(|node| node.identity.as_str());
        let mut all = keyed.chain(source).chain(sink);
        all.find_map(|identity| self.of(identity)).map(|found| found.stage.as_str())
    }

    /// Tells the plan's operators what their rows stand under. `format` is the version that parts are written in: in version 1 what
    /// begins anew has the name that the build before would look for.
    pub fn settle(&self, graph: &mut JobGraph, format: u32) {
        for stage in &mut graph.stages {
            let mut taken: BTreeSet<String> = self.found.values().map(|found| found.rows_under.clone()).collect();
            for node in stage.operators.iter_mut().filter(|node| node.state.is_some()) {
                if let Some(found) = self.found.get(&node.identity) {
                    node.kin.rows_under.clone_from(&found.rows_under);
                    continue;
                }
                let alias = node.kin.aliases.last().filter(|_| format == 1);
                let mut fresh = alias.unwrap_or(&node.identity).clone();
                while !taken.insert(fresh.clone()) {
                    fresh.push('+');
                }
                node.kin.rows_under = fresh;
            }
        }
    }
}

/// Finds the state of each of the plan's keepers, or says why the record does not fit.
pub fn fit(
    graph: &JobGraph,
    max_parallelism: u32,
    permissions: Permissions,
    record: &Record,
    parts: &[Part],
) -> Result<Matched, Failure> {
    if record.max_parallelism != max_parallelism {
        return Err(Failure::mismatch(
            "",
            format!(
                "maxParallelism is {max_parallelism}, and the checkpoint was taken with {}: it is fixed once there is state; \
                 set it back to {}",
                record.max_parallelism, record.max_parallelism
            ),
        ));
    }
    let (planned, stored) = (planned(graph), stored(parts));
    let same_script = !graph.script.is_empty() && parts.iter().all(|part| part.script == graph.script);
    let same_plan = record.fingerprint == graph.fingerprint || same_script;
    let pairs = pair(&planned, &stored, same_plan)?;
    permitted(&planned, &stored, &pairs, permissions)?;
    let mut matched = Matched::default();
    for (&p, &s) in &pairs {
        same_tables(&planned[p], &stored[s])?;
        let Stored { operator, stage, .. } = &stored[s];
        let found = Found {
            operator: (*operator).to_string(),
            stage: (*stage).to_string(),
            rows_under: stored[s].rows_under().to_string(),
        };
        matched.found.insert(planned[p].identity.to_string(), found);
    }
    let taken: BTreeSet<usize> = pairs.values().copied().collect();
    let dropped = stored.iter().enumerate().filter(|(s, stored)| stored.is_sink() && !taken.contains(s));
    matched.dropped_sinks = dropped.map(|(_, stored)| stored.operator.to_string()).collect();
    for stage in &graph.stages {
        one_stage(stage, &matched)?;
    }
    Ok(matched)
}

/// Of a plan and the same with nothing shared, the one that goes on with more of what a record holds; the first where that is the same.
/// What several queries have in common was once computed by each of them, and what each has kept is no other's: a source of two had
/// read up to two places.
pub fn choose(
    graph: Arc<JobGraph>,
    max_parallelism: u32,
    permissions: Permissions,
    record: &Record,
    parts: &[Part],
) -> Result<(Arc<JobGraph>, Matched), Failure> {
    let together = fit(&graph, max_parallelism, permissions, record, parts);
    let Some(apart) = &graph.apart else { return together.map(|matched| (graph, matched)) };
    match (together, fit(apart, max_parallelism, permissions, record, parts)) {
        (Ok(together), Ok(apart)) if apart.found.len() <= together.found.len() => Ok((graph, together)),
        (Ok(together), Err(_)) => Ok((graph, together)),
        (_, Ok(matched)) => Ok((Arc::new(apart.as_ref().clone()), matched)),
        (Err(refused), Err(_)) => Err(refused),
    }
}

/// From the place in the plan to the place among what is stored.
type Pairs = BTreeMap<usize, usize>;

fn pair(planned: &[Planned<'_>], stored: &[Stored<'_>], same_plan: bool) -> Result<Pairs, Failure> {
    let mut pairs = Pairs::new();
    // A sink's pending commits are output that is owed, whatever the statements have become: they go by the sink alone.
    for (p, sink) in planned.iter().enumerate().filter(|(_, planned)| planned.role == Role::Sink) {
        let called =
            |operator: &str| operator == sink.identity || sink.kin.aliases.iter().any(|alias| alias == operator);
        if let Some(s) = stored.iter().position(|stored| called(stored.operator)) {
            pairs.insert(p, s);
        }
    }
    let mut families: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (s, stored) in stored.iter().enumerate().filter(|(_, stored)| !stored.is_sink()) {
        families.entry(stored.family).or_default().push(s);
    }
    for (family, of_stored) in families {
        let of_planned: Vec<(usize, u32)> = planned
            .iter()
            .enumerate()
            .filter(|(p, planned)| planned.role != Role::Sink && !pairs.contains_key(p))
            .filter_map(|(p, planned)| Some((p, ordinal_in(planned, family)?)))
            .collect();
        pair_family(planned, stored, &of_planned, of_stored, same_plan, &mut pairs)?;
    }
    Ok(pairs)
}

/// The place of a keeper in a family: its own, or one that an earlier build would have put it into.
fn ordinal_in(planned: &Planned<'_>, family: &str) -> Option<u32> {
    if planned.family() == family {
        return Some(planned.kin.ordinal);
    }
    let mut aliases = planned.kin.aliases.iter().rev().map(|alias| told_apart(alias));
    aliases.find(|(of, _)| *of == family).map(|(_, ordinal)| ordinal)
}

/// Those of one identity.
fn pair_family(
    planned: &[Planned<'_>],
    stored: &[Stored<'_>],
    of_planned: &[(usize, u32)],
    mut left: Vec<usize>,
    same_plan: bool,
    pairs: &mut Pairs,
) -> Result<(), Failure> {
    let mut open: Vec<(usize, u32)> = of_planned.to_vec();
    // Version 1 tells those of one identity apart by nothing but their order.
    let by_order = same_plan || (left.iter().all(|&s| stored[s].told().is_none()) && left.len() == open.len());
    if by_order {
        open.retain(|(p, ordinal)| match left.iter().position(|&s| stored[s].ordinal == *ordinal) {
            Some(at) => {
                pairs.insert(*p, left.remove(at));
                false
            }
            None => true,
        });
    } else if left.len() > 1 || open.len() > 1 {
        let told = |p: usize| (planned[p].kin.statement.as_str(), planned[p].kin.discriminator.as_str());
        // The same in all that is known: they are interchangeable, if none is missing.
        let exactly = |p: usize, s: usize| stored[s].told() == Some(told(p));
        let of_statement = |p: usize, s: usize| stored[s].told().is_some_and(|(statement, _)| statement == told(p).0);
        pair_where(&exactly, usize::MAX, &mut open, &mut left, pairs);
        pair_where(&of_statement, 1, &mut open, &mut left, pairs);
    }
    if let ([(p, _)], [s]) = (open.as_slice(), left.as_slice()) {
        // One is left, and one place for it: that its filter is another changes nothing.
        pairs.insert(*p, *s);
        return Ok(());
    }
    if open.is_empty() || left.is_empty() {
        return Ok(());
    }
    Err(ambiguous(planned, stored, &open, &left))
}

/// Pairs those that are alike, in their order, where there are as many in the plan as are stored, and no more than `most`.
fn pair_where(
    alike: &dyn Fn(usize, usize) -> bool,
    most: usize,
    open: &mut Vec<(usize, u32)>,
    left: &mut Vec<usize>,
    pairs: &mut Pairs,
) {
    for (p, _) in open.clone() {
        if pairs.contains_key(&p) {
            continue;
        }
        let like: Vec<usize> = left.iter().copied().filter(|&s| alike(p, s)).collect();
        let Some(&first) = like.first() else { continue };
        let rivals: Vec<usize> = open.iter().map(|(p, _)| *p).filter(|&p| alike(p, first)).collect();
        if rivals.len() == like.len() && like.len() <= most {
            pairs.extend(rivals.iter().copied().zip(like.iter().copied()));
            open.retain(|(p, _)| !rivals.contains(p));
            left.retain(|s| !like.contains(s));
        }
    }
}

fn ambiguous(planned: &[Planned<'_>], stored: &[Stored<'_>], open: &[(usize, u32)], left: &[usize]) -> Failure {
    let filtered = |name: String, filter: &str| {
        if filter.is_empty() { format!("{name} without WHERE") } else { format!("{name} with WHERE {filter}") }
    };
    let of_plan = |(p, _): &(usize, u32)| filtered(planned[*p].in_words(), &planned[*p].kin.discriminator);
    let of_record = |s: &usize| match stored[*s].said {
        Some(keeper) => filtered(keeper.in_words(), &keeper.discriminator),
        None => stored[*s].in_words(),
    };
    let now = list(open.iter().map(of_plan));
    let then = list(left.iter().map(of_record));
    let operator = open.first().map_or("", |(p, _)| planned[*p].name);
    Failure::mismatch(
        operator,
        format!(
            "it cannot be told which state is whose: the checkpoint has {then}, and the plan has {now}, which mean the same; \
             change one of the statements at a time, and let a checkpoint complete in between"
        ),
    )
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(" and ")
}

/// What is new and what is left out has been meant.
fn permitted(
    planned: &[Planned<'_>],
    stored: &[Stored<'_>],
    pairs: &Pairs,
    permissions: Permissions,
) -> Result<(), Failure> {
    let taken: BTreeSet<usize> = pairs.values().copied().collect();
    let new: Vec<&Planned<'_>> =
        planned.iter().enumerate().filter(|(p, _)| !pairs.contains_key(p)).map(|(_, planned)| planned).collect();
    let gone: Vec<&Stored<'_>> =
        stored.iter().enumerate().filter(|(s, _)| !taken.contains(s)).map(|(_, stored)| stored).collect();
    let refused_new = !new.is_empty() && !permissions.allow_new_state;
    let refused_gone = !gone.is_empty() && !permissions.allow_dropped_state;
    if !refused_new && !refused_gone {
        return Ok(());
    }
    let (mut said, mut remedy) = (Vec::new(), Vec::new());
    if refused_gone {
        let names = list(gone.iter().map(|stored| stored.in_words()));
        let verbs = if gone.len() == 1 { ("has", "is") } else { ("have", "are") };
        said.push(format!("{names} {} state in the checkpoint and {} not in the plan any more", verbs.0, verbs.1));
        remedy.push("allowDroppedState: true (what they have kept is lost)");
    }
    if refused_new {
        let names = list(new.iter().map(|planned| planned.in_words()));
        let verbs = if new.len() == 1 { ("is", "has") } else { ("are", "have") };
        said.push(format!("{names} {} in the plan and {} no state in the checkpoint", verbs.0, verbs.1));
        remedy.push("allowNewState: true (they start empty)");
    }
    let operator = gone.first().filter(|_| refused_gone).map(|stored| stored.name());
    let operator = operator.or_else(|| new.first().map(|planned| planned.name)).unwrap_or_default();
    Err(Failure::mismatch(
        operator,
        format!(
            "{}; write the SQL as it was when the checkpoint was taken, or set spec.upgrade.{}",
            said.join(", and "),
            remedy.join(" and spec.upgrade.")
        ),
    ))
}

/// What was written as one thing is not read as another. Version 1 does not say what it wrote.
fn same_tables(planned: &Planned<'_>, stored: &Stored<'_>) -> Result<(), Failure> {
    let Some(keeper) = stored.said else { return Ok(()) };
    let now: Vec<Table> = planned.tables.iter().map(|table| table.describe(stored.rows_under())).collect();
    let refused = |what: String| {
        Failure::mismatch(
            planned.name,
            format!(
                "the state of {} is something else than what the plan wants: {what}; change the SQL or the column types back, or start \
                 without state",
                planned.in_words()
            ),
        )
    };
    for was in &keeper.tables {
        let Some(is) = now.iter().find(|table| table.name == was.name) else {
            return Err(refused(format!("its table `{}` is in the checkpoint and not in the plan", was.name)));
        };
        if was.schema != is.schema {
            return Err(refused(format!("its table `{}` has {}", was.name, difference(was, is))));
        }
    }
    match now.iter().find(|is| !keeper.tables.iter().any(|was| was.name == is.name)) {
        Some(is) => Err(refused(format!("its table `{}` is in the plan and not in the checkpoint", is.name))),
        None => Ok(()),
    }
}

/// The first thing in which two tables differ, for people.
fn difference(was: &Table, is: &Table) -> String {
    let types = |types: &[String]| format!("({})", types.join(", "));
    if was.key != is.key {
        return format!("the key {} in the checkpoint and {} in the plan", types(&was.key), types(&is.key));
    }
    if was.row != is.row {
        return format!("the row {} in the checkpoint and {} in the plan", types(&was.row), types(&is.row));
    }
    if was.kind != is.kind {
        return format!("the form of {} in the checkpoint and of {} in the plan", was.kind, is.kind);
    }
    if was.layout != is.layout {
        return format!("{} in the checkpoint and {} in the plan", was.layout, is.layout);
    }
    format!("rows written as {} in the checkpoint and as {} in the plan", was.codec, is.codec)
}

/// Keyed state of one stage stands in one backend, and its key groups have one watermark.
fn one_stage(stage: &Stage, matched: &Matched) -> Result<(), Failure> {
    let keyed = stage.operators.iter().filter(|node| node.state.is_some());
    let mut found = keyed.filter_map(|node| Some((node, matched.of(&node.identity)?)));
    let Some((first, first_found)) = found.next() else { return Ok(()) };
    match found.find(|(_, found)| found.stage != first_found.stage) {
        None => Ok(()),
        Some((other, _)) => {
            let (first, second) = (in_words(&first.name, first.kin.line), in_words(&other.name, other.kin.line));
            Err(Failure::mismatch(
                &other.name,
                format!(
                    "{second} stands in one stage with {first}, and stood in another when the checkpoint was taken; write the SQL as it \
                     was then, or start without state"
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests;
