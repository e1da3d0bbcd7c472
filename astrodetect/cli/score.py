"""`score`: score folders of images into a table."""

import argparse
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.cli._catalogue import add_catalogue_options, open_catalogue
from astrodetect.cli._mosaics import add_mosaic_options, check_inputs, open_mosaics
from astrodetect.cli._options import (
    Subparsers,
    add_prior_option,
    add_ray_option,
    add_samp_option,
    check_not_input,
    check_samp,
    command_parser,
    model_name,
    print_warnings,
    send_by_samp,
)
from astrodetect.errors import ClusterError, DatabaseError, StorageUnavailable, WorkerError
from astrodetect.extras import require_extra
from astrodetect.images import accepted_text
from astrodetect.progress import print_notice
from astrodetect.settings import settings
from astrodetect.storage.references import as_image_path, as_reference

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from astrodetect.scoring.chunks import WorkerPool, WorkerTask

WORKER = ("-m", "astrodetect.cli.score_worker")  # arguments of Python

DESCRIPTION = """score folders of images into one table, without the service

Every {formats} file under a FOLDER is scored, sorted by path; hidden names and links to
folders are skipped. A .csv or .parquet lists images in a column path, filename, file or image_name. Tar shards and
Parquet files of images are read image by image. Any other file given by name is scored whatever its suffix. All of them
may be at URLs: s3://, gs://, az://, https:// (no folders there). An unreadable image has a row with the reason in
`error`; if no image is readable, the exit code is 1.
Columns: path, score, result, error, model, model_version; for a model of several classes, result is the most probable
class, score its probability and p_CLASS the probability of each class. Paths that are not UTF-8 are written to CSV as
raw bytes (read it with errors="surrogateescape") and to Parquet with \\xff for each invalid byte.

Parts of the table are collected in OUTPUT.parts. After Ctrl-C or a crash, run the same command again to continue.
"""
EXAMPLES = """examples:
  python -m astrodetect score data/sample/test
  python -m astrodetect score /survey/night1 /survey/night2 --output scores.parquet --log
  python -m astrodetect score my/catalogue.csv
  python -m astrodetect score --mosaic survey-*.fits --bands g,r,i --catalogue objects.fits --size 8arcsec
  python -m astrodetect score s3://survey/shards --output s3://survey/scores.parquet
  ASTRODETECT_PRECISION=f32 python -m astrodetect score galaxy.jpg --output one.csv
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "score", DESCRIPTION.format(formats=accepted_text()), EXAMPLES, run)
    parser.add_argument(
        "folders",
        nargs="*",
        type=as_reference,
        metavar="FOLDER",
        help="folder of images, searched recursively, image, table, shard, or URL",
    )
    parser.add_argument(
        "--output",
        type=as_image_path,
        default=Path("scores.csv"),
        help="a .csv, .parquet, .vot (VOTable) or .fits file, or its URL on an object store; or a local folder .hats, "
        "partitioned by HEALPix (default: ./scores.csv)",
    )
    parser.add_argument(
        "--restart", action="store_true", help="start from the first image and overwrite an earlier OUTPUT"
    )
    parser.add_argument("--model", type=model_name, metavar="NAME", help=f"trained model (default: {settings().model})")
    add_prior_option(parser)
    add_ray_option(parser)
    add_samp_option(parser)
    add_catalogue_options(parser)
    add_mosaic_options(parser)
    parser.add_argument("--log", action="store_true", help="also record each score in the table `predictions`, once")


def run(arguments: argparse.Namespace) -> int:
    """Score the images and print a summary."""
    from astrodetect.model_store.store import read_current  # noqa: PLC0415 - not needed by the other commands
    from astrodetect.scoring import batch_scoring  # noqa: PLC0415
    from astrodetect.scoring.chunks import WorkerTask  # noqa: PLC0415

    config = settings()
    model = arguments.model or config.model
    check_inputs(arguments, arguments.folders, "FOLDER")
    check_samp(arguments, str(arguments.output), "name a local --output that ends in .vot")
    inputs = [*arguments.folders, *(arguments.mosaic or ()), *filter(None, [arguments.catalogue])]
    check_not_input(arguments.output, inputs)
    task = batch_scoring.ScoringTask(arguments.folders, arguments.output, arguments.restart, log=arguments.log)
    task.check()
    mosaics = open_mosaics(arguments, lambda: read_current(config.models_dir, model).image)
    work = WorkerTask(model, log=arguments.log, prior=arguments.prior)
    if mosaics:
        task = replace(task, catalogue=mosaics.catalogue, cutouts=mosaics.cutouts)
        work = replace(work, cutouts=mosaics.cutouts[0].source.as_message())
    else:
        task = replace(task, catalogue=open_catalogue(arguments, arguments.folders, task.references()))
    if (catalogue := task.catalogue) and arguments.log and not mosaics:
        work = replace(work, catalogue=tuple(catalogue.files), catalogue_columns=astuple(catalogue.chosen))
    try:
        with _open_pool(arguments, work) as pool:
            manifest = read_current(config.models_dir, model)  # while the workers load the model
            try:
                summary = batch_scoring.score_task(task, manifest, pool)
            except (DatabaseError, WorkerError, ClusterError, StorageUnavailable) as error:
                raise type(error)(f"{error}; {_how_to_resume(arguments)}") from error
    except KeyboardInterrupt:
        print(f"stopped: {_how_to_resume(arguments)}", file=sys.stderr)
        return 130
    print("\n".join([*(mosaics.summary if mosaics else ()), summary.text]))
    if arguments.samp:
        send_by_samp(arguments.output)
    print_warnings(manifest)
    if summary.bad_files == summary.files:
        print(f"every file is bad: the column error of {arguments.output} says why", file=sys.stderr)
        return 1
    return 0


def _open_pool(arguments: argparse.Namespace, task: "WorkerTask") -> "AbstractContextManager[WorkerPool]":
    """The workers of the options, which begin to load the model."""
    if arguments.ray:
        require_extra("cluster", "--ray")
        from astrodetect.cluster.connection import LOCAL  # noqa: PLC0415 - imports Ray
        from astrodetect.cluster.ray_pool import RayPool  # noqa: PLC0415

        if task.log and arguments.ray != LOCAL and not settings().database_url:
            raise DatabaseError("--log on a cluster needs DATABASE_URL: the embedded PostgreSQL serves one machine")
        return RayPool(arguments.ray, WORKER, task, environment=settings().as_environment(), notify=print_notice)
    from astrodetect.scoring.worker_process import WorkerProcess  # noqa: PLC0415

    return WorkerProcess([sys.executable, *WORKER], task, notify=print_notice)


def _how_to_resume(arguments: argparse.Namespace) -> str:
    return f"run the same command{' without --restart' if arguments.restart else ''} again to continue"
