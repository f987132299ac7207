//! A side in a process of its own: a process of this program that takes one sample after the other,
//! each when it is asked.
//!
//! It may keep state from sample to sample. It ends when nobody asks any more, or when the suite
//! has ended.

use crate::measure::Cost;
use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// One sample: its cost, or the reason why there is none.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    cost: Cost,
    note: Option<String>,
    error: Option<String>,
}

/// The answer of a process to a request for a sample.
pub(crate) trait Sampler {
    /// The cost of sample `number`. The same number means the same work on all sides.
    fn sample(&mut self, number: u64) -> Result<Cost>;

    /// A note that helps to understand the costs.
    fn note(&self) -> Option<String> {
        None
    }
}

/// The whole life of such a process. `start` is called when it is first asked.
pub(crate) fn serve(start: impl Fn() -> Result<Box<dyn Sampler>>) -> Result<()> {
    // SAFETY: this changes nothing but when this process is killed.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let mut sampler = None;
    for line in std::io::stdin().lines() {
        let number: u64 = line?.trim().parse()?;
        let mut take = || {
            let sampler = match &mut sampler {
                Some(sampler) => sampler,
                none => none.insert(start()?),
            };
            let cost = sampler.sample(number)?;
            Ok::<_, anyhow::Error>(Answer { cost, note: sampler.note(), error: None })
        };
        let answer = take().unwrap_or_else(|error| Answer {
            cost: Cost::default(),
            note: None,
            error: Some(format!("{error:#}")),
        });
        println!("{}", serde_json::to_string(&answer)?);
    }
    Ok(())
}

/// Such a process, as the suite sees it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    number: u64,
    note: Option<String>,
}

impl Process {
    /// Starts this program with these arguments.
    pub(crate) fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process")?;
        let (questions, answers) = (child.stdin.take(), child.stdout.take().context("no output")?);
        let answers = BufReader::new(answers);
        Ok(Self { child, questions, answers, number: 0, note: None })
    }

    /// Asks for a sample, and does not wait for it.
    pub(crate) fn ask(&mut self) -> Result<()> {
        let questions = self.questions.as_mut().context("the process has ended")?;
        // A process that has ended is told about when its answer is missed.
        drop(writeln!(questions, "{}", self.number));
        self.number += 1;
        Ok(())
    }

    /// Waits for the sample that was asked for, and returns what it cost.
    pub(crate) fn answer(&mut self) -> Result<Cost> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("a process ended without an answer, with {}", self.child.wait()?);
        }
        let answer: Answer = serde_json::from_str(&line)?;
        if let Some(error) = answer.error {
            return Err(anyhow!(error));
        }
        self.note = answer.note;
        Ok(answer.cost)
    }

    /// The descriptor that becomes readable when the answer is there, or the process has ended.
    pub(crate) fn answers(&self) -> impl AsFd + '_ {
        self.answers.get_ref()
    }

    pub(crate) fn note(&self) -> Option<String> {
        self.note.clone()
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends when nobody can ask any more.
        drop(self.questions.take());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::Answer;
    use crate::measure::Cost;

    #[test]
    fn an_answer_is_one_line() {
        let cost = Cost { typical: 1.5, tail: Some(2.0) };
        let answer = Answer { cost, note: Some("a\nb".to_owned()), error: None };
        let text = serde_json::to_string(&answer).unwrap();
        assert!(!text.contains('\n'));
        let back: Answer = serde_json::from_str(&text).unwrap();
        assert_eq!((back.cost, back.note, back.error), (cost, answer.note, None));
    }
}
