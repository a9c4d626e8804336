"""A thin client class whose errors say what its caller can do about them.

python thin_client.py photo.jpg restored.png
"""

import sys

import replicate
from replicate.exceptions import ModelError, ReplicateError

MODEL = "tencentarc/gfpgan"
VERSION = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3"


class NotFound(Exception):
    """The model or version does not exist, or is not yours."""


class RateLimited(Exception):
    """Too many requests; come back later."""


class RestorationFailed(Exception):
    """The model could not do it with this photo."""


class Restoration:
    def __init__(self, version=VERSION):
        self.reference = f"{MODEL}:{version}"

    def restore(self, photo, scale=2):
        """The restored photo's bytes."""
        try:
            return replicate.run(self.reference, input={"img": photo, "scale": scale}).read()
        except ModelError as error:
            raise RestorationFailed(error.prediction.error) from error
        except ReplicateError as error:
            if error.status == 404 or "version" in (error.title or ""):
                raise NotFound(error.detail) from error
            if error.status == 429:
                raise RateLimited(error.detail) from error
            raise


def main(photo, restored, version=VERSION):
    try:
        with open(photo, "rb") as file:
            data = Restoration(version).restore(file)
    except (NotFound, RateLimited, RestorationFailed) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    with open(restored, "wb") as file:
        file.write(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
