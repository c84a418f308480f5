"""Shows the result of trying a prompt in the terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from darec.report.trial import summary
from darec.text.protocol import Conversation
from darec.text.trial import Side, Trial, meaning
from pipelines.show import console


def print_trial(trial: Trial) -> None:
    """Prints the old and the new result side by side in a terminal, and line by line otherwise."""
    console.print(Text(f"{trial.name}: old {trial.old_path}, new {trial.new_path}", style="bold"))
    if trial.turns_changed:
        _print_pair("turns before the last (of the first row)", _turns(trial.old_turns), _turns(trial.new_turns))
    for row in trial.rows:
        name = f"{row.id}  {row.title}" if row.title else row.id
        _print_pair(name, _side(row.old), _side(row.new))
    for line in summary(trial):
        console.print(Text(line))


def _print_pair(title: str, old: Text, new: Text) -> None:
    if not console.is_terminal:
        console.print(Text(title))
        for label, side in (("old", old), ("new", new)):
            for line in side.plain.splitlines():
                console.print(Text(f"  {label}: {line}"))
        return

    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, expand=True)
    for label in ("old", "new"):
        table.add_column(label, ratio=1, overflow="fold")
    table.add_row(old, new)
    console.print(table)


def _side(side: Side) -> Text:
    """Prompt, tokens and profile of one side."""
    text = Text()
    if side.prompt != side.text:
        text.append(f"{side.prompt}\n", style="dim")
    if side.tokens:
        text.append(f"{side.tokens} tokens\n", style="cyan")
    text.append(side.text if side.text is not None else "(not requested)")
    if side.cause:
        text.append(f"\nfrom metadata: {meaning(side.cause)}", style="yellow")

    return text


def _turns(messages: Conversation) -> Text:
    return Text("\n".join(f"{message['role']}: {message['content']}" for message in messages))
