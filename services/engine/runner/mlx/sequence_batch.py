"""The answers in mlx-lm's generator, and the memory that they and the kept prefixes take.

    restore what was stored ─► score prompts ─► generate ─► keep ─► save

A batch holds as many tokens as its longest sequence, for each of its sequences:

    cells   rows x longest  +  prefixes of earlier answers   <=   what the load was planned for
"""

from __future__ import annotations

import logging
import time
from itertools import pairwise
from typing import Any

from services.engine.backends.mlx.loading import LoadedModel, free
from services.engine.backends.mlx.sizes import PREFILL_PROMPTS, PREFILL_TOKENS, count_cells
from services.engine.core import LoadConfig, MemoryPolicy
from services.engine.runner.batcher import Answer
from services.engine.runner.kvcache.store import PromptStore
from services.engine.runner.mlx.followers import Followers, Lead, find_lead
from services.engine.runner.mlx.generated_answer import GeneratedAnswer
from services.engine.runner.mlx.prefix_cache import Kind, PrefixCache
from services.engine.runner.mlx.prompt_scorer import PromptScorer
from services.engine.runner.mlx.step_report import StepReport
from services.engine.runner.mlx.stored_caches import StoredCaches
from services.engine.runner.stepping.scheduler.cut_selection import list_cuts, list_cuts_ahead
from services.engine.runner.stepping.scheduler.request import Branch

logger = logging.getLogger(__name__)

_HEADROOM = 16  # tokens that each answer can still take before one must make room
_NO_LIMIT = 1 << 30  # answers end by themselves


class SequenceBatch:
    """See the module. The thread of the batcher only."""

    def __init__(self, loaded: LoadedModel, config: LoadConfig, store: PromptStore | None) -> None:
        self.cells = count_cells(config)
        self.can_cut = loaded.info.memory_policy is MemoryPolicy.DENSE  # its caches, at any token
        self._config = config
        self._loaded = loaded
        self._answers: dict[int, GeneratedAnswer] = {}  # by the generator's id
        self._scoring: dict[GeneratedAnswer, PromptScorer] = {}
        self._followers = Followers()
        self._prefixes = PrefixCache(loaded.library)
        self._stored = StoredCaches(
            loaded.library, store, loaded.make_caches, saves_whole=not self.can_cut
        )
        self._token_seconds = 0.0  # that computing a token of a prompt took lately
        self._generator: Any = self._make_generator()

    @property
    def answers(self) -> list[GeneratedAnswer]:
        """All of them, also those whose prompt is fetched, scored or followed first."""
        followers = self._followers.answers
        return [*self._answers.values(), *self._scoring, *self._stored.answers, *followers]

    @property
    def saving(self) -> int:
        """Number of computed sequences that wait to be saved."""
        return self._stored.pending

    @property
    def tokens(self) -> int:
        """In memory, those of kept prefixes included."""
        used = sum(len(answer.branch.tokens) for answer in self.answers)
        per_token = self._loaded.sizes.token_bytes
        return used + (self._prefixes.size_bytes // per_token if per_token else 0)

    @property
    def is_too_large(self) -> bool:
        """Whether the next step would not fit, and one of several answers must leave."""
        answers = self.answers
        return len(answers) > 1 and _count_cells(answers, 1) > self.cells

    def has_room(self, branch: Branch) -> bool:
        """Whether an answer fits beside the others. It always fits alone."""
        answers = self.answers
        if not answers:
            return True
        longest = max(len(branch.tokens), *(len(a.branch.tokens) for a in answers)) + _HEADROOM
        rows = len(answers) + 1
        return rows <= self._config.max_sequences and rows * longest <= self.cells

    def start(self, branch: Branch, answer: Answer, *, score_top: int | None) -> int | None:
        """Begin or continue an answer; returns how many of its tokens are computed already.

        None: it waits for more of them, and a later report has it among those that have begun.

        `score_top`: score the prompt first, with so many alternatives for each token.
        """
        generated = GeneratedAnswer(
            branch, answer, self._loaded.library.mx, self._loaded.vocabulary.piece
        )
        if score_top is not None and len(branch.tokens) > 1:
            self._scoring[generated] = PromptScorer(self._loaded, branch.tokens, score_top)
            return 0
        return self._begin(generated)

    def remove(self, branch: Branch) -> None:
        """Take an answer out and keep what was computed for others. One that is not in is fine."""
        self._stored.remove(branch)
        self._followers.remove(branch)
        for scored in [answer for answer in self._scoring if answer.branch is branch]:
            del self._scoring[scored]
        for id_ in [i for i, answer in self._answers.items() if answer.branch is branch]:
            answer = self._answers.pop(id_)
            if branch.request.is_shareable and answer.error is None:
                self._keep(answer, saves=branch.is_done)
            self._generator.remove([id_])

    def compute(self) -> StepReport:
        """Compute one step, after which the answers have their next tokens, and save some bytes.

        Any exception means that the generator has lost all of its sequences.
        """
        report = StepReport()
        self._release_followers(report)
        self._shrink_prefixes()
        copied = self._restore(report)
        if self._answers or self._scoring:
            began = time.monotonic()
            self._generate(report)
            report.seconds = time.monotonic() - began
        is_alone = not report.seconds
        copied += self._stored.save(copied, self._token_seconds, is_alone=is_alone)
        if is_alone and not copied:
            self._stored.wait()
        return report

    def restart(self) -> None:
        """Forget all answers and prefixes, and begin with a fresh generator."""
        self.close()
        self._generator = self._make_generator()
        free(self._loaded.library)

    def close(self) -> None:
        """Drop everything that holds memory but the model."""
        self._answers.clear()
        self._scoring.clear()
        self._stored.clear()
        self._followers.clear()
        self._prefixes.clear()
        self._generator.close()
        self._generator = None

    def _make_generator(self) -> Any:
        generator = self._loaded.library.generator_class(
            self._loaded.compute_logits,
            completion_batch_size=self._config.max_sequences,
            prefill_batch_size=min(PREFILL_PROMPTS, self._config.max_sequences),
            prefill_step_size=min(self._config.batch_tokens, PREFILL_TOKENS),
        )
        self._loaded.limit_memory()
        return generator

    def _restore(self, report: StepReport) -> int:
        """Load what was fetched, and begin the answers that have it all; returns the bytes."""
        restored, copied = self._stored.restore(is_alone=not (self._answers or self._scoring))
        for restoring in restored:
            branch = restoring.answer.branch
            if restoring.length in self._find_cuts(branch, 0):
                # Other prompts can begin here without the store.
                tokens = branch.tokens[: restoring.length]
                self._prefixes.put(branch.request.realm, tokens, restoring.caches, "user")
            self._insert(restoring.answer, restoring.caches, restoring.length)
            self._stored.remove(branch)
            report.begun.append((branch, restoring.length))
        return copied

    def _begin(self, answer: GeneratedAnswer, *, follows: bool = True) -> int | None:
        """Continue what is computed of a prompt; None: more of it is on its way, and it waits.

        `follows`: it may wait for another answer to compute it.
        """
        caches, length, lead = self._find_prefix(answer.branch)
        lead = lead if follows else None
        if self._stored.fetch(answer, caches, length, saved=lead.until if lead else length):
            return None
        if lead is not None:
            self._followers.add(answer, lead)
            return None
        self._insert(answer, caches, length)
        return length

    def _find_prefix(self, branch: Branch) -> tuple[list[Any] | None, int, Lead | None]:
        """The longest computed prefix: its caches, its length, and who will compute more of it."""
        if not branch.request.is_shareable:
            return None, 0, None
        caches, length = self._prefixes.find(branch.request.realm, branch.tokens)
        lead = find_lead(branch, self._answers.values(), computed=length, can_cut=self.can_cut)
        if lead is None or not lead.is_computed:
            return caches, length, lead
        self._keep(lead.leader, saves=False)
        caches, length = self._prefixes.find(branch.request.realm, branch.tokens)
        return caches, length, None

    def _release_followers(self, report: StepReport) -> None:
        for answer in self._followers.list_ready(self._answers.values()):
            length = self._begin(answer, follows=False)
            self._followers.remove(answer.branch)
            if length is not None:
                report.begun.append((answer.branch, length))

    def _generate(self, report: StepReport) -> None:
        with self._loaded.library.mx.stream(self._generator.stream):
            self._score(report)
        with self._generator.stats() as stats:
            prompts, tokens = self._generator.next()
        if stats.prompt_tokens:
            self._token_seconds = stats.prompt_time / stats.prompt_tokens
        for response in prompts:
            self._take_progress(response, report)
        for response in tokens:
            if (answer := self._answers.get(response.uid)) is not None:
                answer.report(response.token, response.logprobs)

    def _insert(self, answer: GeneratedAnswer, caches: list[Any] | None, length: int) -> None:
        tokens = answer.branch.tokens
        cuts = self._find_cuts(answer.branch, length)
        bounds = [length, *cuts, len(tokens)]
        (id_,) = self._generator.insert_segments(
            [[tokens[start:end] for start, end in pairwise(bounds)]],
            max_tokens=[_NO_LIMIT],
            caches=[caches or self._loaded.make_caches()],
            all_tokens=[tokens[:length]],
            samplers=[answer.sampler],
        )
        answer.insert(id_, computed=length, cuts=cuts)
        self._answers[id_] = answer

    def _find_cuts(self, branch: Branch, computed: int) -> list[int]:
        """Where caches that cannot be cut later are kept while the rest of a prompt is read."""
        request = branch.request
        if self.can_cut or branch.index > 0 or not request.is_shareable:
            return []
        return list_cuts_ahead(request, computed)

    def _keep(self, answer: GeneratedAnswer, *, saves: bool, kind: Kind = "assistant") -> None:
        """Keep what was computed of a sequence; where that fails, others compute it again.

        `saves`: for the store too.
        """
        branch = answer.branch
        try:
            caches, tokens = self._generator.extract_cache([answer.id])[answer.id]
            self._prefixes.put(branch.request.realm, tokens, caches, kind)
            if saves:
                self._stored.queue(branch, tokens, caches)
        except Exception:
            logger.exception("prefix not kept")

    def _score(self, report: StepReport) -> None:
        """Score a part of the oldest prompt that waits for it."""
        answer, scorer = next(iter(self._scoring.items()), (None, None))
        if answer is None or scorer is None:
            return
        before = scorer.done
        entries = scorer.advance(self._loaded.vocabulary.read_piece)
        report.scored.append((answer.branch, before, entries))
        report.computed.append((answer.branch, scorer.done - before))
        if scorer.is_done:
            self._insert(answer, scorer.caches, scorer.done)
            del self._scoring[answer]

    def _take_progress(self, response: Any, report: StepReport) -> None:
        answer = self._answers.get(response.uid)
        if answer is None:
            return
        request = answer.branch.request
        done, total = response.progress
        tokens = answer.inserted - total + done - answer.computed
        cut = answer.compute(tokens)
        report.computed.append((answer.branch, tokens))
        if response.end_of_prompt:
            report.read.append(answer.branch)
        elif cut is not None:
            self._keep(answer, saves=True, kind="system" if cut in request.cuts else "user")
        elif not (response.end_of_segment and request.is_shareable):
            return
        elif request.n > 1 or not (self.can_cut or list_cuts(request)):
            # All but the last token: here others can begin, also where caches cannot be cut.
            self._keep(answer, saves=False, kind="user")
            report.read.append(answer.branch)

    def _shrink_prefixes(self) -> None:
        sizes = self._loaded.sizes
        rows = len(self.answers)
        used = _count_cells(self.answers, 1) * sizes.token_bytes + rows * sizes.sequence_bytes
        whole = self.cells * sizes.token_bytes + self._config.max_sequences * sizes.sequence_bytes
        self._prefixes.shrink(whole - used)


def _count_cells(answers: list[GeneratedAnswer], more: int) -> int:
    """The cells of a batch of these answers, each with so many more tokens."""
    longest = max((len(answer.branch.tokens) for answer in answers), default=0)
    return len(answers) * (longest + more)
