"""`train`, `serve` and `setup-db`: train_model.py, `uvicorn main:app` and setup_db.py as commands."""

import argparse
import os
import socket
from pathlib import Path

from astrodetect.cli import train_options
from astrodetect.cli._options import Subparsers, command_parser, int_between
from astrodetect.errors import DataError

TRAIN_DESCRIPTION = """train, calibrate, evaluate and export an image classifier from labelled images

The same as python train_model.py. By default a ResNet50 classifies images as anomalies (class E, score near 1) or not
(class SB, score near 0). --classes trains on any number of classes, --recipe another network or a random forest. After
Ctrl-C or a crash, run the same command again to continue.
"""
TRAIN_EXAMPLES = train_options.EXAMPLES.replace("python train_model.py", "python -m astrodetect train")
SERVE_DESCRIPTION = """serve models over HTTP, with web pages, until Ctrl-C

The same as uvicorn main:app. Every prediction is recorded in the table `predictions` before its response. Without
DATABASE_URL the embedded PostgreSQL is started. All processes of --workers share one database.
"""
SERVE_EXAMPLES = """examples:
  python -m astrodetect serve
  python -m astrodetect serve --host 0.0.0.0 --port 80 --workers 4
  python -m astrodetect serve --uds /run/astrodetect.sock --root-path /astrodetect
"""
SETUP_DB_DESCRIPTION = """create the predictions database and bring its tables up to date

The same as python setup_db.py. Uses DATABASE_URL, or the embedded PostgreSQL where that is unset. `serve` does this by
itself for the embedded one. Running it again changes nothing. Rows are never deleted.
"""
SETUP_DB_EXAMPLES = """examples:
  python -m astrodetect setup-db
  DATABASE_URL=postgresql://user:password@host:5432/astrodetect python -m astrodetect setup-db
"""
LARGEST_PORT = 65535
MAX_WORKERS = 256
WORKER_TIMEOUT_S = 60  # uvicorn kills a worker that does not answer; its 5 s pass on a busy machine


def add_parser(subparsers: Subparsers) -> None:
    """Declare the commands."""
    train_options.add_train_options(command_parser(subparsers, "train", TRAIN_DESCRIPTION, TRAIN_EXAMPLES, _train))
    _add_serve(command_parser(subparsers, "serve", SERVE_DESCRIPTION, SERVE_EXAMPLES, _serve))
    command_parser(subparsers, "setup-db", SETUP_DB_DESCRIPTION, SETUP_DB_EXAMPLES, _setup_db)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for every network (default: 127.0.0.1)")
    port = (
        os.environ.get("PORT") or "8000"
    )  # what platforms such as Cloud Run set; argparse reads it as if it were typed
    add("--port", type=int_between(0, LARGEST_PORT), default=port, help="0 for any free one (default: $PORT, or 8000)")
    add("--workers", type=int_between(1, MAX_WORKERS), help="processes (default: $WEB_CONCURRENCY, or 1)")
    add("--uds", type=Path, metavar="SOCKET", help="listen on this Unix socket instead")
    root_path_help = "path under which a reverse proxy shows the API; the pages need the root of a host name"
    add("--root-path", default="", metavar="PATH", help=root_path_help)
    add(
        "--forwarded-allow-ips",
        metavar="IP,…",
        help="proxies whose X-Forwarded headers are believed (default: $FORWARDED_ALLOW_IPS, or 127.0.0.1)",
    )
    add("--ssl-certfile", type=Path, metavar="FILE", help="certificate, to serve HTTPS")
    add("--ssl-keyfile", type=Path, metavar="FILE", help="private key of the certificate")


def _train(arguments: argparse.Namespace) -> int:
    import train_model  # noqa: PLC0415 - it is not part of the package, and is found where this runs

    return train_model.main(arguments.argv[1:])


def _serve(arguments: argparse.Namespace) -> int:
    import uvicorn  # noqa: PLC0415 - slow to import

    options = {name: value for name, value in vars(arguments).items() if name not in {"argv", "command", "parser"}}
    if options["ssl_keyfile"] and not options["ssl_certfile"]:
        raise DataError("--ssl-keyfile is of a certificate: name it by --ssl-certfile")
    if options["uds"]:
        _check_socket(options["uds"])
        options["uds"] = str(options["uds"])
    uvicorn.run("main:app", timeout_worker_healthcheck=WORKER_TIMEOUT_S, **options)
    return 0


def _check_socket(path: Path) -> None:
    """DataError where uvicorn could not listen, or would take the place of another service; it removes what is there,
    whatever it is."""
    if path.exists() and not path.is_socket():
        raise DataError(f"{path} exists and is no socket: name another --uds")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            if not path.absolute().parent.is_dir():
                raise DataError(f"there is no folder {path.absolute().parent}: name another --uds") from None
        except ConnectionRefusedError:
            return  # left by a service that was killed
        except OSError as error:
            raise DataError(f"cannot listen on {path}: {error.strerror or error}") from error
        else:
            raise DataError(f"another program listens on {path}: name another --uds")


def _setup_db(_: argparse.Namespace) -> int:
    import setup_db  # noqa: PLC0415 - as train_model

    return setup_db.main([])
