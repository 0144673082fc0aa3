"""The errors that this project tells apart, with their real ancestry."""


class Error(Exception):
    pass


class AuthError(Error):
    pass


class PermissionDeniedError(Error):
    pass


class InvalidError(Error):
    pass


class ConflictError(InvalidError):
    pass


class NotFoundError(Error):
    pass


class RemoteError(Error):
    pass


class ImageBuildError(RemoteError):
    def __init__(self, message, image_id):
        super().__init__(message)
        self.image_id = image_id
