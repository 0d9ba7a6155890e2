"""A bounded YAML file that knows the line of each of its values. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from schemas.errors import AuditapError

BYTES_MAX = 4 << 20
"""Size limit of a rules file."""
# Both far above what a rules file needs: they bound anchors, through which a few lines become millions of values.
_NODES_MAX = 200_000
_DEPTH_MAX = 40


class RulesRefused(AuditapError):
    """A rules file cannot be used. The message is one sentence with the file's name, the line and the reason."""

    def __init__(self, name: str, line: int, reason: str) -> None:
        super().__init__(f"{name}, line {line}: {reason}.")
        self.line = line


class YamlSource:
    """A parsed file. `name`: what errors call it.

    Raises RulesRefused if the text is too large, is not YAML in UTF-8, is nested too deep, or repeats a key.
    """

    def __init__(self, text: bytes, name: str) -> None:
        self._name = name
        self._sizes: dict[int, int] = {}
        if len(text) > BYTES_MAX:
            raise RulesRefused(name, 1, f"the file is larger than {BYTES_MAX} bytes")
        try:
            # Composed first: here an alias is one shared node, so the size with all of them expanded is known before
            # anything walks the values.
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            if self._root is not None:
                self._check_size(self._root, 0)
            self.content: Any = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = 1 if mark is None else mark.line + 1
            raise RulesRefused(name, line, f"it is not YAML ({error.problem})") from None
        except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
            raise RulesRefused(name, 1, "it is not YAML in UTF-8") from None
        self._check_keys()

    def refusal(self, path: Sequence[str | int], reason: str) -> RulesRefused:
        """Return the error for the value at a path: keys of mappings and indexes of sequences."""
        return RulesRefused(self._name, self._line(path), reason)

    def _refusal_at(self, node: yaml.Node, reason: str) -> RulesRefused:
        return RulesRefused(self._name, node.start_mark.line + 1, reason)

    def _line(self, path: Sequence[str | int]) -> int:
        """Return the line of the deepest value of the path that exists."""
        node, line = self._root, 1
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            head, node = found
            line = head.start_mark.line + 1
        return line

    def _check_size(self, node: yaml.Node, depth: int) -> int:
        """Return the number of values below a node, with every alias expanded."""
        known = self._sizes.get(id(node))
        if known is not None and depth + 1 < _DEPTH_MAX:
            return known
        if depth >= _DEPTH_MAX:
            # A node that contains itself ends here as well.
            raise self._refusal_at(node, f"it is nested more than {_DEPTH_MAX} times")
        size = 1 + sum(self._check_size(child, depth + 1) for child in _children(node))
        if size > _NODES_MAX:
            raise self._refusal_at(node, f"it holds more than {_NODES_MAX} values")
        self._sizes[id(node)] = size
        return size

    def _check_keys(self) -> None:
        """Refuse a mapping that has a key twice: PyYAML would silently ignore one of the two values."""
        for mapping in _mappings(self._root):
            seen: set[str] = set()
            for key, _ in mapping.value:
                if key.value in seen:
                    raise self._refusal_at(key, f"{key.value} stands here twice")
                seen.add(str(key.value))


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the node whose line names the child, and the child."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == str(step)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return node.value[step], node.value[step]
    return None


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _mappings(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Yield every mapping once, however many aliases refer to it."""
    pending = [] if root is None else [root]
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
        pending += _children(node)
