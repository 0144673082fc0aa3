"""The signatures of the real SDK, as data. By hand, in an environment with it:
`python modal_signatures.py > modal_signatures.json`.

What is used here of the SDK is what the stand-in has; the test of it compares the two without the SDK.
"""

import inspect
import json
import sys

FUNCTIONS = {
    "App": ["lookup"],
    "Secret": ["from_dict"],
    "Image": ["from_registry", "from_dockerfile", "from_id", "entrypoint", "build"],
    "Sandbox": ["create", "from_id", "list", "get_tags", "exec", "terminate"],
    "ContainerProcess": ["wait"],
    "StreamWriter": ["write", "write_eof", "drain"],
    "StreamReader": ["__iter__", "__aiter__"],
}
ERRORS = [
    "AuthError",
    "PermissionDeniedError",
    "InvalidError",
    "ConflictError",
    "NotFoundError",
    "ImageBuildError",
]


def described(classes, errors):
    """Of each function: parameters with their kinds (first ones of methods left out), whether it has `aio`; of each
    error: its ancestors' names.
    """
    functions = {}
    for owner, names in FUNCTIONS.items():
        for name in names:
            function = getattr(classes[owner], name)
            parameters = inspect.signature(function).parameters.values()
            kinds = {part.name: part.kind.name for part in parameters if part.name not in ("self", "cls")}
            functions[f"{owner}.{name}"] = {
                "parameters": kinds,
                "aio": hasattr(function, "aio") and name[0] != "_",
            }
    ancestry = {name: [base.__name__ for base in getattr(errors, name).__mro__] for name in ERRORS}
    return {"functions": functions, "errors": ancestry}


def real():
    """Of the SDK that is installed."""
    import modal
    from modal.container_process import ContainerProcess
    from modal.io_streams import StreamReader, StreamWriter

    classes = {name: getattr(modal, name) for name in ("App", "Secret", "Image", "Sandbox")}
    classes |= {
        "ContainerProcess": ContainerProcess,
        "StreamReader": StreamReader,
        "StreamWriter": StreamWriter,
    }
    return {"version": modal.__version__, **described(classes, modal.exception)}


if __name__ == "__main__":
    json.dump(real(), sys.stdout, indent=1)
