//! From verdicts about calls to instructions that the kernel runs for each call (BPF).
//!
//! The calls with the same verdict are ranges of numbers, and a balanced tree of comparisons finds the
//! range. The kernel follows the program for each of its some 450 calls when a filter is loaded,
//! to know those that are always allowed, so the length of its paths is a cost of every start.

use std::collections::BTreeMap;

use libc::sock_filter;

use super::key;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Allow,
    /// It fails with this errno, and nothing is done.
    Fail(u16),
    /// Its process is killed.
    Kill,
    /// It is made, and the log says so.
    Log,
}

/// A comparison of one argument. All arguments that are tested have 32 bits for the kernel; what
/// is in the upper half of the register has no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Which argument, from 0.
    pub argument: u8,
    /// The bits that count.
    pub mask: u32,
    /// What these bits must be.
    pub value: u32,
}

/// What becomes of a call whose arguments pass all tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The tests.
    pub tests: &'static [Test],
    /// What becomes of it.
    pub action: Action,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// By its arguments: the first case whose tests pass counts.
    pub cases: &'static [Case],
    /// If there is no such case.
    pub otherwise: Action,
}

impl From<Action> for Verdict {
    fn from(otherwise: Action) -> Self {
        Self {
            cases: &[],
            otherwise,
        }
    }
}

/// What becomes of calls by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Those with a verdict of their own.
    pub calls: BTreeMap<u32, Verdict>,
    /// All others.
    pub others: Action,
    /// Whether calls that would fail are made and logged instead. Those that would fail with ENOSYS
    /// aren't: a program that gets that has another way.
    pub only_log: bool,
    /// Whether a jailer can have the filter itself: it allows what a jailer does, but for what passes by
    /// a key.
    pub fits_jailer: bool,
}

impl Rules {
    /// What becomes of a call of this architecture.
    pub fn action(&self, number: u32, arguments: &[u64; 6]) -> Action {
        let Some(verdict) = self.calls.get(&number) else {
            return self.softened(self.others);
        };
        let passes = |test: &Test| {
            let argument = arguments.get(usize::from(test.argument));
            argument.is_some_and(|argument| *argument as u32 & test.mask == test.value)
        };
        let case = verdict
            .cases
            .iter()
            .find(|case| case.tests.iter().all(passes));
        self.softened(case.map_or(verdict.otherwise, |case| case.action))
    }

    /// Whether some calls are logged, so that a listener is needed.
    pub fn logs(&self) -> bool {
        self.has(Action::Log)
    }

    /// Whether some calls kill, of which a listener can tell which it was.
    pub fn kills(&self) -> bool {
        self.has(Action::Kill)
    }

    fn has(&self, wanted: Action) -> bool {
        let actions = self.calls.values().flat_map(|verdict| {
            let cases = verdict.cases.iter().map(|case| case.action);
            cases.chain([verdict.otherwise])
        });
        let mut actions = actions.chain([self.others]);
        actions.any(|action| self.softened(action) == wanted)
    }

    fn softened(&self, action: Action) -> Action {
        match action {
            Action::Fail(errno) if self.only_log && i32::from(errno) != libc::ENOSYS => Action::Log,
            action => action,
        }
    }
}

/// Numbers of another set of calls begin here on x86-64, those of x32: the same kernel functions by
/// other numbers.
#[cfg(target_arch = "x86_64")]
const FOREIGN: Option<u32> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const FOREIGN: Option<u32> = None;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Where the low half of an argument is.
fn offset(argument: u8) -> u32 {
    let half = if cfg!(target_endian = "big") { 4 } else { 0 };
    16 + 8 * u32::from(argument) + half
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const GO: u32 = libc::BPF_JMP | libc::BPF_JA;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

fn instruction(code: u32, (yes, no): (u8, u8), k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    }
}

fn plain(code: u32, k: u32) -> sock_filter {
    instruction(code, (0, 0), k)
}

/// A program in the making, its last instruction first: all jumps go forward, to what is there already. A place in
/// it is the number of instructions behind.
///
/// A listener is asked about calls that are logged or kill.
struct Compiler<'a> {
    rules: &'a Rules,
    has_listener: bool,
    reversed: Vec<sock_filter>,
    /// The latest end for each action.
    ends: Vec<(u32, usize)>,
}

/// Compiles rules for the calls of this architecture (`AUDIT_ARCH_*`). A call of another one ends
/// the process: its numbers mean other calls.
///
/// With a key, the calls that start programs in a sandbox pass if they have it.
pub(super) fn compile(
    rules: &Rules,
    architecture: u32,
    has_listener: bool,
    key: Option<u64>,
) -> Vec<sock_filter> {
    let mut compiler = Compiler {
        rules,
        has_listener,
        reversed: Vec::new(),
        ends: Vec::new(),
    };
    let ranges = ranges(rules);
    let start = compiler.tree(&ranges, u32::MAX);
    compiler.go(start);
    let mut program = compiler.reversed;
    let mut passing: Vec<_> = key.into_iter().flat_map(let_through).collect();
    passing.reverse();
    program.append(&mut passing);
    program.extend([
        plain(LOAD, NUMBER),
        KILL,
        instruction(IF_EQUAL, (1, 0), architecture),
        plain(LOAD, ARCHITECTURE),
    ]);
    program.reverse();
    program
}

/// Lets calls with the key through, and goes on with the number of the others.
fn let_through(key: u64) -> impl IntoIterator<Item = sock_filter> {
    const CALLS: u8 = key::CALLS.len() as u8;
    let calls = key::CALLS.into_iter().zip(1..);
    let calls = calls.map(|(call, at): (_, u8)| {
        let others = if at == CALLS { 6 } else { 0 };
        instruction(IF_EQUAL, (CALLS - at, others), call as u32)
    });
    let low = offset(key::ARGUMENT);
    let check = [
        plain(LOAD, low),
        instruction(IF_EQUAL, (0, 3), key as u32),
        plain(LOAD, low ^ 4),
        instruction(IF_EQUAL, (0, 1), (key >> 32) as u32),
        plain(RETURN, libc::SECCOMP_RET_ALLOW),
        plain(LOAD, NUMBER),
    ];
    calls.chain(check)
}

const KILL: sock_filter = sock_filter {
    code: RETURN as u16,
    jt: 0,
    jf: 0,
    k: libc::SECCOMP_RET_KILL_PROCESS,
};

/// The first number of each range with one verdict, in order, from 0.
fn ranges(rules: &Rules) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let mut add = |number, verdict| {
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((number, verdict));
        }
    };
    let others = Verdict::from(rules.others);
    let mut next = 0;
    for (&number, &verdict) in &rules.calls {
        if number > next {
            add(next, Some(others));
        }
        add(number, Some(verdict));
        next = number.saturating_add(1);
    }
    add(next, Some(others));
    if let Some(first) = FOREIGN.filter(|first| *first >= next) {
        add(first, None);
    }
    // By this number a tracer skips a call.
    add(u32::MAX, Some(Action::Fail(libc::ENOSYS as u16).into()));
    ranges
}

/// The calls of a range: those with the same verdict, or those of another set of calls.
type Range = (u32, Option<Verdict>);

impl Compiler<'_> {
    /// Adds instructions that find the range of the loaded number, and returns their place.
    fn tree(&mut self, ranges: &[Range], end: u32) -> usize {
        let (below, above) = match ranges {
            [] => return self.end(libc::SECCOMP_RET_KILL_PROCESS),
            [(_, Some(verdict))] => return self.leaf(verdict),
            [(_, None)] => return self.end(libc::SECCOMP_RET_KILL_PROCESS),
            more => more.split_at(middle(more, end)),
        };
        let above_from = above.first().map_or(0, |(first, _)| *first);
        let (above, below) = (self.tree(above, end), self.tree(below, above_from));
        self.branch(IF_AT_LEAST, above_from, (above, below))
    }

    /// Adds the end for calls with this verdict, after tests of their arguments, and returns its place.
    fn leaf(&mut self, verdict: &Verdict) -> usize {
        let mut next = self.end(self.value(verdict.otherwise));
        for case in verdict.cases.iter().rev() {
            let mut passed = self.end(self.value(case.action));
            for test in case.tests.iter().rev() {
                self.branch(IF_EQUAL, test.value, (passed, next));
                if test.mask != u32::MAX {
                    self.reversed.push(plain(AND, test.mask));
                }
                self.reversed.push(plain(LOAD, offset(test.argument)));
                passed = self.reversed.len();
            }
            next = passed;
        }
        next
    }

    /// Adds a comparison with the positions to go on at, and returns its position.
    fn branch(&mut self, code: u32, value: u32, (yes, no): (usize, usize)) -> usize {
        // A jump beyond what a comparison can reach goes by way of another.
        let far = |position, behind: usize| behind - position > usize::from(u8::MAX) - 1;
        let mut positions = [yes, no];
        for position in &mut positions {
            if far(*position, self.reversed.len()) {
                self.go_always(*position);
                *position = self.reversed.len();
            }
        }
        let behind = self.reversed.len();
        let [yes, no] = positions.map(|position| (behind - position) as u8);
        self.reversed.push(instruction(code, (yes, no), value));
        behind + 1
    }

    /// Has what comes before go on at a position.
    fn go(&mut self, position: usize) {
        if position != self.reversed.len() {
            self.go_always(position);
        }
    }

    fn go_always(&mut self, position: usize) {
        let distance = self.reversed.len() - position;
        self.reversed.push(plain(GO, distance as u32));
    }

    /// Returns the position of an end, which many share.
    fn end(&mut self, value: u32) -> usize {
        const NEAR: usize = 200;
        let behind = self.reversed.len();
        let known = self.ends.iter_mut().find(|(known, _)| *known == value);
        match known {
            Some((_, position)) if behind - *position < NEAR => return *position,
            Some((_, position)) => *position = behind + 1,
            None => self.ends.push((value, behind + 1)),
        }
        self.reversed.push(plain(RETURN, value));
        behind + 1
    }

    fn value(&self, action: Action) -> u32 {
        match self.rules.softened(action) {
            Action::Fail(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Action::Kill | Action::Log if self.has_listener => libc::SECCOMP_RET_USER_NOTIF,
            Action::Kill => libc::SECCOMP_RET_KILL_PROCESS,
            Action::Allow | Action::Log => libc::SECCOMP_RET_ALLOW,
        }
    }
}

/// Where ranges are split, so that about as many calls are below as above: the kernel follows the program for
/// each. Neither part is empty.
fn middle(ranges: &[Range], end: u32) -> usize {
    /// No range counts for more: the last has no calls at all.
    const MOST: u32 = 32;
    let next = ranges.iter().skip(1).map(|(first, _)| *first).chain([end]);
    let weights = ranges.iter().zip(next);
    let weights = weights.map(|((first, _), next)| next.saturating_sub(*first).clamp(1, MOST));
    let half = weights.clone().sum::<u32>() / 2;
    let mut below = 0;
    let found = weights.take_while(|weight| {
        below += weight;
        below <= half
    });
    found.count().clamp(1, ranges.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::c_long;
    use proptest::prelude::*;

    const OWN: u32 = 7;

    /// What a program returns for a call, as the kernel would run it, and the number of instructions.
    fn run(
        program: &[sock_filter],
        architecture: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> (u32, usize) {
        let (mut at, mut loaded) = (0_usize, 0);
        for steps in 1.. {
            let step = program[at];
            at += 1;
            let code = u32::from(step.code);
            if code == LOAD {
                loaded = match step.k {
                    NUMBER => number,
                    ARCHITECTURE => architecture,
                    other => {
                        let (argument, high) = ((other - 16) / 8, (other - offset(0)) % 8 != 0);
                        (arguments[argument as usize] >> if high { 32 } else { 0 }) as u32
                    }
                };
            } else if code == AND {
                loaded &= step.k;
            } else if code == GO {
                at += step.k as usize;
            } else if code == RETURN {
                return (step.k, steps);
            } else {
                let yes = match code {
                    IF_EQUAL => loaded == step.k,
                    IF_AT_LEAST => loaded >= step.k,
                    other => panic!("code {other}"),
                };
                at += usize::from(if yes { step.jt } else { step.jf });
            }
        }
        unreachable!()
    }

    /// What the rules say, without any tree.
    fn expected(rules: &Rules, number: u32, arguments: [u64; 6], has_listener: bool) -> u32 {
        if number == u32::MAX {
            return libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        }
        if FOREIGN.is_some_and(|first| number >= first) {
            return libc::SECCOMP_RET_KILL_PROCESS;
        }
        match (rules.action(number, &arguments), has_listener) {
            (Action::Allow, _) | (Action::Log, false) => libc::SECCOMP_RET_ALLOW,
            (Action::Fail(errno), _) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            (Action::Kill, false) => libc::SECCOMP_RET_KILL_PROCESS,
            (Action::Kill | Action::Log, true) => libc::SECCOMP_RET_USER_NOTIF,
        }
    }

    const CASES: &[&[Case]] = &[
        &[],
        &[Case {
            tests: &[Test {
                argument: 0,
                mask: u32::MAX,
                value: 1,
            }],
            action: Action::Allow,
        }],
        &[
            Case {
                tests: &[
                    Test {
                        argument: 1,
                        mask: 0x6,
                        value: 0x2,
                    },
                    Test {
                        argument: 5,
                        mask: u32::MAX,
                        value: 3,
                    },
                ],
                action: Action::Kill,
            },
            Case {
                tests: &[Test {
                    argument: 1,
                    mask: 1,
                    value: 0,
                }],
                action: Action::Fail(22),
            },
        ],
    ];

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            3 => Just(Action::Allow),
            1 => (0..200_u16).prop_map(Action::Fail),
            1 => Just(Action::Kill),
            1 => Just(Action::Log),
        ]
    }

    fn rules() -> impl Strategy<Value = Rules> {
        let verdict = (0..CASES.len(), action()).prop_map(|(cases, otherwise)| Verdict {
            cases: CASES[cases],
            otherwise,
        });
        let calls = prop::collection::btree_map(0..600_u32, verdict, 0..500);
        (calls, action(), any::<bool>()).prop_map(|(calls, others, only_log)| Rules {
            calls,
            others,
            only_log,
            fits_jailer: false,
        })
    }

    proptest! {
        #[test]
        fn a_key_lets_a_few_calls_through_and_changes_nothing_else(
            rules in rules(),
            key in any::<u64>(),
            mut arguments in prop::array::uniform6(any::<u64>()),
            given in prop_oneof![Just(0), Just(1), Just(1 << 32), any::<u64>()],
        ) {
            let (plain, keyed) = (compile(&rules, OWN, false, None), compile(&rules, OWN, false, Some(key)));
            arguments[5] = key ^ given;
            for number in 0..620_u32 {
                let has_key = given == 0 && key::CALLS.contains(&c_long::from(number));
                let wanted = match has_key {
                    true => libc::SECCOMP_RET_ALLOW,
                    false => run(&plain, OWN, number, arguments).0,
                };
                prop_assert_eq!(run(&keyed, OWN, number, arguments).0, wanted, "call {}", number);
            }
        }

        #[test]
        fn a_program_decides_as_the_rules_do(
            rules in rules(),
            has_listener in any::<bool>(),
            arguments in prop::array::uniform6(prop_oneof![0..8_u64, any::<u64>()]),
        ) {
            let program = compile(&rules, OWN, has_listener, None);
            let ends = [0x3fff_ffff, 0x4000_0000, 0x4000_0001, u32::MAX - 1, u32::MAX];
            for number in (0..620).chain(ends) {
                let wanted = expected(&rules, number, arguments, has_listener);
                let (found, steps) = run(&program, OWN, number, arguments);
                prop_assert_eq!(found, wanted, "{}", number);
                prop_assert!(steps < 40, "{}", steps);
                let (other, _) = run(&program, OWN + 1, number, arguments);
                prop_assert_eq!(other, libc::SECCOMP_RET_KILL_PROCESS);
            }
        }
    }
}
