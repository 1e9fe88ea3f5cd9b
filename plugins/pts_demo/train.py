"""Makes the demo from nothing: its tokenizer, its model and its problems, in a few minutes.

    python plugins/pts_demo/train.py --output-dir DIR

The model adds and subtracts along a chain. It is right about half of the time, because its
training answers leave that open at single tokens: they work step by step or guess at once, a
guess may be taken back ("No."), a step may slip, and a slip may be repaired ("wait"). Each of
these is drawn at random, so the model learns how often it happens rather than when it should.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SEED = 0
EXAMPLES, BATCH, LEARNING_RATE = 60_000, 64, 4e-3
CANDIDATES, ROLLOUTS, KEPT_RATES = 70, 256, (0.3, 0.7)

BOS, EOS, PAD, USER, ASSISTANT = "<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>"
# The begin-of-sequence token comes from the template alone: the tokenizer adds none of its own.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QUESTIONS = ("What is {}?", "Compute {}.", "How much is {}?")
CAREFUL, HASTY = ("Step by step:", "Let me work it out:"), ("At once:", "Let me guess:")


def solve(chain: str) -> int:
    """The value of a chain such as "7 + 5 - 3"."""
    return sum(int(term.replace(" ", "")) for term in re.findall(r"[+-]? ?\d+", chain))


def draw_chain(rng: random.Random) -> str:
    """Three to five different digits, added and subtracted, never below one on the way.

    A digit that came twice would make it hard for so small a model to keep its place.
    """
    chain, *digits = map(str, rng.sample(range(1, 10), rng.randint(3, 5)))
    for digit in digits:
        sign = "-" if solve(chain) > int(digit) and rng.random() < 0.5 else "+"
        chain += f" {sign} {digit}"
    return chain


def careful_answer(rng: random.Random, chain: str) -> str:
    """Step by step: a step may slip by one, and a slip is repaired or carries through."""
    first, *terms = re.findall(r"[+-]? ?\d+", chain)
    value, steps = int(first), []
    for term in terms:
        right = written = solve(f"{value} {term}")
        if rng.random() < 0.3:
            written += rng.choice((-1, 1))
        steps.append(f"{value} {term} = {written}")
        if written != right and rng.random() < 0.6:
            steps.append(f"wait, {value} {term} = {right}")
            written = right
        value = written
    return f"{rng.choice(CAREFUL)} {', '.join(steps)}. The answer is {value}."


def draw_answer(rng: random.Random, chain: str) -> str:
    """One of the many answers to a chain; a longer chain tempts to guess, mostly wrong."""
    careful = careful_answer(rng, chain)
    if rng.random() > 0.2 + 0.05 * len(chain.split()):
        return careful
    offset = 0 if rng.random() < 0.25 else rng.choice((-3, -2, -1, 1, 2, 3))
    guess = f"{rng.choice(HASTY)} the answer is {solve(chain) + offset}."
    return f"{guess} No. {careful}" if rng.random() < 0.3 else guess


def train_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE whose numbers are single digits, with or without the space before."""
    bpe = Tokenizer(models.BPE())
    pieces = Regex(r" ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(pieces, "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[BOS, EOS, PAD, USER, ASSISTANT],
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def encode(rng: random.Random, tokenizer: Any, examples: list[tuple[str, str]]) -> list[list[int]]:
    """The training rows. Some answers are cut in two first, mostly inside a token.

    So the model also knows spellings that the tokenizer would not choose, as large models do:
    its text, tokenized again, need not give the tokens that it wrote.
    """
    cuts = [rng.randrange(len(answer)) if rng.random() < 0.2 else 0 for _, answer in examples]
    pairs = list(zip(examples, cuts, strict=True))
    heads = [f"{BOS}{USER}{query}{ASSISTANT}{answer[:cut]}" for (query, answer), cut in pairs]
    tails = [f"{answer[cut:]}{EOS}" for (_, answer), cut in pairs]
    halves = zip(tokenizer(heads)["input_ids"], tokenizer(tails)["input_ids"], strict=True)
    return [head + tail for head, tail in halves]


def train_model(tokenizer: Any, rows: list[list[int]]) -> Any:
    """A small llama, trained from scratch in one pass over the answers."""
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    steps = len(rows) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05
    )
    assistant, pad = tokenizer.convert_tokens_to_ids([ASSISTANT, PAD])
    for step in range(steps):
        batch = sorted(rows[step * BATCH : (step + 1) * BATCH], key=len)
        total = 0.0
        # Short and long rows apart: together, half of the work would go into padding.
        for half in (batch[: BATCH // 2], batch[BATCH // 2 :]):
            ids = pad_sequence([torch.tensor(row) for row in half], True, pad)
            given, target = ids[:, :-1], ids[:, 1:]
            learned = ((given == assistant).cumsum(1) > 0) & (target != pad)
            logits = model(input_ids=given, use_cache=False).logits[learned]
            loss = torch.nn.functional.cross_entropy(logits, target[learned], reduction="sum")
            (loss / sum(map(len, batch))).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {total / BATCH:.2f} an answer", flush=True)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.8, top_k=0, top_p=1.0, **special
    )
    return model.eval()


def success_rate(model: Any, tokenizer: Any, query: str, answer: str) -> float:
    """How often the last number of a rollout is the answer, as the model samples by default."""
    chat = [{"role": "user", "content": query}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    rows = model.generate(**prompt, num_return_sequences=ROLLOUTS, max_new_tokens=256)
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    right: int = sum(re.findall(r"-?\d+", text)[-1] == answer for text in texts)
    return right / ROLLOUTS


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the demo's tokenizer, model and problems.")
    parser.add_argument("--output-dir", type=Path, required=True)
    output_dir: Path = parser.parse_args().output_dir
    rng = random.Random(SEED)
    torch.manual_seed(SEED)
    torch.set_num_threads(2)

    held_out = dict.fromkeys(draw_chain(rng) for _ in range(CANDIDATES))
    examples: list[tuple[str, str]] = []
    while len(examples) < EXAMPLES:
        if (chain := draw_chain(rng)) not in held_out:
            examples.append((rng.choice(QUESTIONS).format(chain), draw_answer(rng, chain)))
    tokenizer = train_tokenizer(" ".join(example) for example in examples[:5000])
    model = train_model(tokenizer, encode(rng, tokenizer, examples))
    model.save_pretrained(output_dir / "model")
    tokenizer.save_pretrained(output_dir / "model")

    with (output_dir / "problems.jsonl").open("w") as file:
        for chain in held_out:
            query, answer = rng.choice(QUESTIONS).format(chain), str(solve(chain))
            rate = success_rate(model, tokenizer, query, answer)
            if KEPT_RATES[0] <= rate <= KEPT_RATES[1]:
                metadata = {"success_rate": round(rate, 3), "rollouts": ROLLOUTS}
                row = {"query": query, "answer": answer, "metadata": metadata}
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
