from kamon.cli import command

if __name__ == "__main__":
    command()
