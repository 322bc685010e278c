"""The web page: chat, a look inside the model, the curves of training runs. Plain files, served by `penjing serve`."""
