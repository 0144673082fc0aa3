"""The journal through torn writes, kills between its files, and a full disk."""

import asyncio
import json
import os

import pytest

from rnow_core.errors import RunFailed, WouldOverwrite
from rnow_core.track import journal as journal_module
from rnow_core.track.journal import Journal


def paths(folder):
    return {"train": folder / "train.jsonl", "rejected": folder / "rejected.jsonl"}


def opened(folder):
    return Journal(folder / "train.jsonl", paths(folder))


def using(folder, use):
    async def main():
        async with opened(folder) as journal:
            return await use(journal)

    return asyncio.run(main())


async def fill(journal):
    await asyncio.gather(*(journal.append(f"a{i}", "answer", turn=0, text="ä\n") for i in range(50)))
    await asyncio.gather(*(journal.finish(f"a{i}", "train", {"n": i}) for i in range(30)))
    await journal.finish("a30", "rejected", {"n": 30}, reason="refused")


def numbers(path):
    return sorted(json.loads(line)["n"] for line in path.read_text().splitlines())


def test_what_was_appended_is_there_again(tmp_path):
    using(tmp_path, fill)

    async def look(journal):
        return set(journal.done), journal.past("a40"), journal.past("a1"), journal.done["a30"]["reason"]

    done, past, gone, reason = using(tmp_path, look)
    assert done == {f"a{i}" for i in range(31)}
    assert past == [{"id": "a40", "kind": "answer", "turn": 0, "text": "ä\n"}]
    assert gone == []
    assert reason == "refused"
    assert numbers(tmp_path / "train.jsonl") == list(range(30))
    assert numbers(tmp_path / "rejected.jsonl") == [30]


@pytest.mark.parametrize("kept", range(0, 101, 5))
def test_cut_anywhere_no_row_is_lost_or_doubled(tmp_path, kept):
    """A kill leaves any prefix of what the group wrote: journal first, then the outputs, then the mark."""
    using(tmp_path, fill)
    journal, train = tmp_path / "train.jsonl.journal", tmp_path / "train.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    marks = [i for i, line in enumerate(lines) if b'"written"' in line]
    journal.write_bytes(b"".join(line for i, line in enumerate(lines) if i not in marks))
    size = train.stat().st_size
    os.truncate(train, size * kept // 100)
    (tmp_path / "rejected.jsonl").unlink()

    async def nothing(journal):
        return len(journal.done)

    assert using(tmp_path, nothing) == using(tmp_path, nothing) == 31
    assert numbers(train) == list(range(30))
    assert numbers(tmp_path / "rejected.jsonl") == [30]


def test_equal_rows_are_told_apart_by_the_mark(tmp_path):
    async def one(journal):
        await journal.finish("a", "train", {"n": 1})

    using(tmp_path, one)
    record = json.dumps(
        {"id": "b", "kind": "done", "output": "train", "row": '{"n":1}'}, separators=(",", ":")
    )
    with (tmp_path / "train.jsonl.journal").open("a") as file:
        file.write(record + "\n")

    async def nothing(journal):
        return sorted(journal.done)

    assert using(tmp_path, nothing) == ["a", "b"]
    assert numbers(tmp_path / "train.jsonl") == [1, 1]


def test_a_torn_last_line_is_dropped_and_work_goes_on(tmp_path):
    using(tmp_path, fill)
    with (tmp_path / "train.jsonl.journal").open("ab") as file:
        file.write(b'{"id":"a45","kind":"done","output":"train","row":"{')

    async def more(journal):
        assert "a45" not in journal.done
        await journal.finish("a45", "train", {"n": 45})

    using(tmp_path, more)
    assert numbers(tmp_path / "train.jsonl") == [*range(30), 45]


def test_a_second_process_is_refused_and_a_foreign_file_too(tmp_path):
    async def second(journal):
        with pytest.raises(WouldOverwrite, match=str(os.getpid())):
            opened(tmp_path)

    using(tmp_path, second)
    (tmp_path / "train.jsonl.journal").write_text('{"messages": []}\n')
    with pytest.raises(RunFailed, match="journal:1"):
        opened(tmp_path)
    (tmp_path / "train.jsonl.journal").unlink()
    using(tmp_path, fill)


def test_a_disk_that_is_full_stops_the_work_and_leaves_whole_lines(tmp_path, monkeypatch):
    real = journal_module._write

    def full(file, data):
        real(file, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    async def use(journal):
        await journal.append("a", "answer", turn=0)
        monkeypatch.setattr(journal_module, "_write", full)
        with pytest.raises(RunFailed, match="No space left"):
            await journal.append("b", "answer", turn=0)
        with pytest.raises(RunFailed):
            await journal.append("c", "answer", turn=0)

    using(tmp_path, use)
    monkeypatch.setattr(journal_module, "_write", real)
    lines = (tmp_path / "train.jsonl.journal").read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == ["a"]


def test_an_output_that_was_removed_comes_back_and_one_that_was_edited_stays(tmp_path):
    using(tmp_path, fill)
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "rejected.jsonl").write_text('{"n":7}\n')

    async def nothing(journal):
        return None

    using(tmp_path, nothing)
    using(tmp_path, nothing)
    assert numbers(tmp_path / "train.jsonl") == list(range(30))
    assert numbers(tmp_path / "rejected.jsonl") == [7]


def test_the_journal_of_a_hundred_thousand_prompts_is_read(tmp_path):
    text = json.dumps({"messages": [{"role": "user", "content": "x" * 300}], "metadata": {}})
    row = json.dumps(text)
    with (tmp_path / "train.jsonl.journal").open("w") as file:
        for i in range(100_000):
            file.write(f'{{"id":"p{i}","kind":"answer","turn":0,"answer":{text}}}\n')
            file.write(f'{{"id":"p{i}","kind":"done","output":"train","in":1,"row":{row}}}\n')
        file.write('{"id":"-","kind":"written","sizes":{"train":0,"rejected":0}}\n')

    async def count(journal):
        return len(journal.done), len(journal.unfinished)

    assert using(tmp_path, count) == (100_000, 0)
