"""Its being here puts this folder on the import path, so that all rooms can use `tiny_nuscenes`."""
